"""JSONL files in tests."""

import json


def write_lines(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
