#!/bin/sh
# The monitor of these tests: tests/faults/faulty_vmm.py, with the Python that runs them.
here=${0%/*}
PYTHONPATH=$here/../.. exec "$MACHINEN_TEST_PYTHON" -m tests.faults.faulty_vmm "$@"
