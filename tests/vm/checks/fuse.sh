#!/usr/bin/env bash
# In the guest: LUNs as files of Linux 6.1's FUSE, by a part of the functional tests.
# check: seconds=420
set -euo pipefail
modprobe fuse
exec /usr/bin/python3 -m pytest -q -rfEs -p no:cacheprovider --basetemp=/tmp/fuse tests/functional/test_fuse.py -k \
	"others_read or holes or growth or mappings or reservation or SIGKILL or killed_daemon"
