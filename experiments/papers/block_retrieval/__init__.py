"""The parts of the replica of ActQKV: texts, recorded attention and its replay, whole passes, and what is made of them."""
