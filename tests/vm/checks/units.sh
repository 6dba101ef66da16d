#!/usr/bin/env bash
# In the guest: the unit tests that ask for rights or features which not every machine gives (a memory cgroup v2,
# reclaim on request, loop devices, locked memory). Here all is there: none of their tests may skip.
# check: seconds=420 alone
set -uo pipefail
unit=${EBB_BUILD:-build-test}/tests/unit
modprobe loop
echo +memory >/sys/fs/cgroup/cgroup.subtree_control || exit 1
bad=0
for t in mem/test_volatile mem/test_volatile_kernel mem/test_volatile_squeeze \
	block/test_device block/test_file event/test_event_listener; do
	"$unit/$t" >/tmp/out 2>&1
	rc=$?
	if [ $rc -ne 0 ] || grep -aq SKIPPED /tmp/out || ! grep -aq '  PASSED  ' /tmp/out; then
		cat /tmp/out
		echo "$t: FAILED ($rc)"
		bad=1
	else
		echo "$t:$(grep -a '  PASSED  ' /tmp/out)"
		grep -a '^  ' /tmp/out # figures
	fi
	case $t in
	*squeeze) grep -aq 'cgroup v2' /tmp/out || { echo "$t: not in a cgroup v2"; bad=1; } ;;
	esac
done
exit $bad
