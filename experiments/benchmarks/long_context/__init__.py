"""Suite ``long_context``: what rules that read or keep less of a long context cost beside dense attention."""
