#!/bin/sh
# The accelerator's tests once more, with the C library built under AddressSanitizer and
# UndefinedBehaviorSanitizer. Usage: check_c.sh PYTHON [pytest arguments]
#
# The sanitized library lies in a folder of its own, and conftest.py loads it instead of the usual
# one. Leak detection is off: the interpreter itself never frees everything.
set -eu
python=$1
shift
root=$(cd "$(dirname "$0")/../../.." && pwd)
folder=$root/build/sanitized
mkdir -p "$folder"
library=$("$python" "$root/plugins/accelerator/build_ops.py" --sanitize --into "$folder" | tail -n 1)
cd "$root"
export CLAW_TEST_OPS="$library" ASAN_OPTIONS=detect_leaks=0:abort_on_error=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    exec "$python" -m pytest -q -p no:cacheprovider tests/plugins/accelerator "$@"
