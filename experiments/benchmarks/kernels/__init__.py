"""The suite ``kernels``: one file for the suite, one each for shapes, arrays, clocks, engines, targets, page and figures."""
