#!/usr/bin/env bash
# In the guest: docs/recipes/open-iscsi.md as it is printed. The appliance lives in a network namespace of its own,
# two pairs of veth are the two networks. After the page's steps: the LUN grows, and ebbd is killed under load.
# check: soak not-debug seconds=900 alone
set -euxo pipefail
build=${EBB_BUILD:-build-test}
recipe() { /usr/bin/python3 tests/functional/recipelib.py docs/recipes/open-iscsi.md "$@"; }
ebb() { "$build/appliance/cli/ebb" --socket /run/ebb/control.sock "$@"; }

for m in iscsi_tcp sd_mod ext4 crc32c veth dm_multipath dm_service_time scsi_dh_alua; do modprobe $m; done
rm -rf /etc/ebb /etc/iscsi/nodes /etc/iscsi/send_targets
mkdir -p /tmp/recipe /run/lock/iscsi /run/udev /var/lib/ebb/images
ip netns add appliance
for n in "ens1 192.0.2" "ens2 198.51.100"; do
	read -r link net <<<"$n"
	ip link add "$link" type veth peer name "$link" netns appliance
	ip addr add "$net.1/24" dev "$link"
	ip -n appliance addr add "$net.10/24" dev "$link"
	ip link set "$link" up
	ip -n appliance link set "$link" up
done

serve() {
	# Not `ip netns exec`: its mount namespace would keep what is mounted now.
	nsenter --net=/run/netns/appliance "$build/appliance/daemon/ebbd" --config /etc/ebb/ebb.yaml 2>>/tmp/ebbd.log &
	daemon=$!
	until ebb status >/dev/null 2>&1; do kill -0 $daemon; sleep 0.1; done
}
recipe / files
/lib/systemd/systemd-udevd --daemon
udevadm trigger
serve
iscsid -f 2>/dev/null &
multipathd -d &
until multipathd show daemon; do sleep 0.1; done
until iscsiadm -m session >/dev/null 2>&1 || [ $? = 21 ]; do sleep 0.1; done
recipe /tmp/recipe run

# Both paths fail at once: I/O is queued until they are back.
rm -f /tmp/enough
(until [ -e /tmp/enough ]; do dd if=/dev/urandom of=/srv/data/big bs=1M count=8 conv=fsync status=none; done) &
writer=$!
until [ -s /srv/data/big ]; do sleep 0.1; done
kill -9 $daemon
wait $daemon || true
until [ "$(multipathd show paths raw format %t | grep -c failed)" = 2 ]; do sleep 1; done
serve
until [ "$(multipathd show paths raw format %t | grep -c active)" = 2 ]; do sleep 1; done
touch /tmp/enough
wait $writer

ebb lun resize data 512M
recipe /tmp/recipe run grow
test "$(df --output=size -BM /srv/data | tail -1 | tr -dc 0-9)" -gt 450
for d in $(multipathd show paths raw format %d); do
	grep '\[none\]' "/sys/block/$d/queue/scheduler"
	test "$(/lib/udev/scsi_id -g -d "/dev/$d")" = "3$(udevadm info --query=property --property=ID_WWN --value "/dev/$d" | sed s/0x//)"
done
recipe /tmp/recipe run leave
kill $daemon
wait $daemon
echo "recipe-open-iscsi: all good"
