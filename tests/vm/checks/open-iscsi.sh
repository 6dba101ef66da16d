#!/usr/bin/env bash
# In the guest: the kernel's initiator (open-iscsi) uses two LUNs for real work: discovery, login, ext4, fio
# verify, TRIM, online grow, a session that survives a killed daemon, logout.
# check: seconds=420 alone
set -euo pipefail
build=${EBB_BUILD:-build-test}
ebb=$build/appliance/cli/ebb
dir=/tmp/ebb
portal=127.0.0.1:3260
iqn=iqn.2026-11.local.ebb
mkdir -p $dir /run/lock/iscsi /etc/iscsi
for m in iscsi_tcp sd_mod ext4 sg crc32c; do modprobe $m; done
echo "InitiatorName=iqn.1993-08.org.debian:01:ebbtest" >/etc/iscsi/initiatorname.iscsi
cat >/etc/iscsi/iscsid.conf <<'C'
node.session.timeo.replacement_timeout = 60
node.conn[0].timeo.noop_out_interval = 2
node.conn[0].timeo.noop_out_timeout = 5
node.conn[0].iscsi.HeaderDigest = CRC32C,None
node.conn[0].iscsi.DataDigest = CRC32C,None
C

serve() {
	: >$dir/out
	"$ebb" serve "$dir/a.img,name=a,size=256M" "$dir/b.img,name=b,size=64M,bs=4096" --iscsi $portal --nbd unix:$dir/nbd \
		--state $dir/state --socket $dir/ctl >$dir/out 2>>$dir/err &
	daemon=$!
	for _ in $(seq 300); do
		grep -qx ready $dir/out && return
		kill -0 $daemon 2>/dev/null || break
		sleep 0.1
	done
	cat $dir/out $dir/err
	return 1
}
disk() { # the block device of target $1
	local d
	for _ in $(seq 100); do
		for d in /sys/class/iscsi_session/session*; do
			[ "$(cat "$d/targetname" 2>/dev/null)" = "$iqn:$1" ] || continue
			basename "$(ls -d "$d"/device/target*/*/block/sd* 2>/dev/null | head -1)" 2>/dev/null | grep sd && return
		done
		sleep 0.1
	done
	echo "no disk for $1" >&2
	return 1
}

serve
iscsid -f 2>/dev/null &
for _ in $(seq 50); do iscsiadm -m session >/dev/null 2>&1 && break || [ $? = 21 ] && break; sleep 0.1; done
test "$(iscsiadm -m discovery -t st -p $portal | grep -c "$iqn:[ab]$")" = 2
iscsiadm -m node -p $portal --login
a=$(disk a) b=$(disk b)
test "$(cat /sys/block/$a/size)" = $((256 * 2048))
test "$(cat /sys/block/$b/queue/logical_block_size)" = 4096
test "$(cat /sys/block/$a/queue/physical_block_size)" = 4096
test "$(cat /sys/block/$a/queue/discard_max_bytes)" -gt 0
iscsiadm -m session -P 2 | grep -i digest

mkfs.ext4 -q /dev/$a
mkdir -p /tmp/m
mount -o discard /dev/$a /tmp/m
cp -r /usr/share/common-licenses /tmp/m/
sync -f /tmp/m
umount /tmp/m
mount /dev/$a /tmp/m
diff -r /usr/share/common-licenses /tmp/m/common-licenses
fstrim -v /tmp/m
umount /tmp/m
fsck.ext4 -fn /dev/$a

fio --name=v --filename=/dev/$b --direct=1 --rw=randrw --bs=4k-64k --iodepth=16 --ioengine=libaio --size=32M \
	--verify=crc32c --verify_fatal=1 --time_based --runtime=5 --output=/tmp/fio.log || { cat /tmp/fio.log; exit 1; }

# Grow while mounted: the unit attention makes the kernel look again, or a rescan does.
mount /dev/$a /tmp/m
"$ebb" --socket $dir/ctl lun resize a 320M
iscsiadm -m node -T $iqn:a -p $portal -R
test "$(cat /sys/block/$a/size)" = $((320 * 2048))
resize2fs /dev/$a
test "$(df --output=size -BM /tmp/m | tail -1 | tr -dc 0-9)" -gt 280

# A killed daemon: I/O waits for the new one and goes on.
dd if=/dev/urandom of=/tmp/m/big bs=1M count=40 conv=fsync status=none &
writer=$!
sleep 0.3
kill -9 $daemon
wait $daemon || true
sleep 1
serve
wait $writer
md5sum /tmp/m/big >/tmp/sum
sync -f /tmp/m
umount /tmp/m
echo 3 >/proc/sys/vm/drop_caches
mount /dev/$a /tmp/m
md5sum -c /tmp/sum
umount /tmp/m
fsck.ext4 -fn /dev/$a

iscsiadm -m node -p $portal --logout
kill $daemon
wait $daemon
echo "open-iscsi: all good"
