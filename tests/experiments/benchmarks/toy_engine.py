"""An engine that imports nothing, and can fail in every way an engine can."""

import os
import subprocess
import sys
import time


class ToyEngine:
    def __init__(self, greeting="hello", fail="", die=False, noisy=False, slow=0.0):
        if noisy:
            print("printed while loading")
        if fail:
            raise ValueError(fail)
        if die:
            print("about to die", file=sys.stderr)
            sys.stderr.flush()
            os._exit(3)
        time.sleep(slow)
        self.greeting = greeting

    def describe(self):
        return {"engine": "toy", "greeting": self.greeting}

    def echo(self, **arguments):
        return arguments

    def noise(self):
        """Write on standard output in every way a library may."""
        print("printed")
        sys.stdout.write('{"result": "forged"}\n')
        sys.stdout.flush()
        os.write(1, b'{"result": "forged"}\n')
        subprocess.run([sys.executable, "-S", "-c", "print('from a child')"], check=True)
        return "the reply"

    def environment_variable(self, name):
        return os.environ.get(name)

    def fail(self, text):
        raise RuntimeError(text)

    def not_json(self):
        return {1, 2}

    def not_a_number(self):
        return float("nan")

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def die(self, status):
        print("last words", file=sys.stderr, flush=True)
        os._exit(status)

    def sleep(self, seconds):
        time.sleep(seconds)
        return seconds

    def burn(self, seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    def hold(self, megabytes):
        """Touch that much memory, and let it go."""
        return len(b"x" * (megabytes << 20))
