#!/usr/bin/env bash
# In the guest: LUNs as backstores of the kernel's own target (target_core_user), seen through its loopback fabric:
# refusals, ext4, fio verify, online grow, a daemon that is stopped, and killed, under load. EBB_SOAK=1: 20 kills.
# check: seconds=420 alone
set -euo pipefail
build=${EBB_BUILD:-build-test}
ebb=$build/appliance/cli/ebb
dir=/tmp/ebb
core=/sys/kernel/config/target/core
loop=/sys/kernel/config/target/loopback
kills=2
[ "${EBB_SOAK:-0}" = 0 ] || kills=20
mkdir -p $dir /etc/target
for m in target_core_user tcm_loop sd_mod ext4 crc32c; do modprobe $m; done
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config

serve() {
	: >$dir/out
	"$ebb" serve "$dir/a.img,name=a,size=256M" "$dir/b.img,name=b,size=64M,bs=4096" --tcmu --iscsi none --nbd none \
		--metrics none --state $dir/state --socket $dir/ctl --log-level info >$dir/out 2>>$dir/err &
	daemon=$!
	for _ in $(seq 600); do
		grep -qx ready $dir/out && return
		kill -0 $daemon 2>/dev/null || break
		sleep 0.1
	done
	cat $dir/out $dir/err
	return 1
}
backstore() { # backstore NAME LUN SIZE: makes user_0/NAME
	mkdir -p $core/user_0/"$1"
	echo "dev_config=ebb/$2,dev_size=$3" >$core/user_0/"$1"/control
	echo 1 2>/dev/null >$core/user_0/"$1"/enable || {
		rmdir $core/user_0/"$1"
		return 1
	}
}
attach() { # attach NAME NUMBER: shows user_0/NAME as a disk of this machine; prints sdX
	local wwn=naa.500140512345670$2 d
	mkdir -p $loop/$wwn/tpgt_1/lun/lun_0
	echo $wwn >$loop/$wwn/tpgt_1/nexus
	ln -s $core/user_0/"$1" $loop/$wwn/tpgt_1/lun/lun_0/"$1"
	for _ in $(seq 600); do
		for d in /sys/block/sd*; do
			[ -e "$d/device/model" ] || continue
			[ "$(readlink -f "$d/device" | grep -c "tcm_loop_adapter_$(($2 - 1))/")" = 1 ] && basename "$d" && return
		done
		sleep 0.1
	done
	echo "no disk for $1" >&2
	return 1
}
detach() {
	local wwn=naa.500140512345670$2
	rm $loop/$wwn/tpgt_1/lun/lun_0/"$1"
	rmdir $loop/$wwn/tpgt_1/lun/lun_0 $loop/$wwn/tpgt_1 $loop/$wwn
	rmdir $core/user_0/"$1"
}
open_sessions() { "$ebb" --json --socket $dir/ctl session list | grep -c '"tcmu"' || true; }

trap 'echo "--- line $LINENO"; cat $dir/err; dmesg | tail -40' ERR
serve
if backstore x nothing 1048576; then exit 1; fi
if backstore x a 1048576; then exit 1; fi
grep -q "no LUN is called 'nothing'" $dir/err
grep -q "LUN 'a' has 268435456 bytes" $dir/err
backstore one a $((256 << 20))
backstore two b $((64 << 20))
[ "$(open_sessions)" = 2 ]
a=$(attach one 1) b=$(attach two 2)
test "$(cat /sys/block/$a/size)" = $((256 * 2048))
test "$(cat /sys/block/$b/queue/logical_block_size)" = 4096
test "$(cat /sys/block/$a/queue/discard_max_bytes)" -gt 0
echo "disks: $a $b"

mkfs.ext4 -q /dev/$a
mkdir -p /tmp/m
mount -o discard /dev/$a /tmp/m
cp -r /usr/share/common-licenses /tmp/m/
sync -f /tmp/m
umount /tmp/m
echo 3 >/proc/sys/vm/drop_caches
mount /dev/$a /tmp/m
diff -r /usr/share/common-licenses /tmp/m/common-licenses
fstrim -v /tmp/m
fio --name=v --filename=/dev/$b --direct=1 --rw=randrw --bs=4k-256k --iodepth=16 --ioengine=libaio --size=32M \
	--verify=crc32c --verify_fatal=1 --time_based --runtime=3 --output=/tmp/fio.log || { cat /tmp/fio.log; exit 1; }

"$ebb" --socket $dir/ctl lun resize a 320M
echo 1 >/sys/block/$a/device/rescan
test "$(cat /sys/block/$a/size)" = $((320 * 2048))
resize2fs /dev/$a
echo "before the kills"

# Stopped in order once, then killed: commands wait in the kernel and go on, or are sent again.
fio --name=k --filename=/dev/$b --direct=1 --rw=randwrite --bs=4k-64k --iodepth=16 --ioengine=libaio --size=48M \
	--verify=crc32c --verify_fatal=1 --do_verify=0 --verify_state_save=0 --randseed=7 --loops=1000 --time_based \
	--runtime=$((8 + kills * 8)) --output=/tmp/fio.log &
writer=$!
for i in $(seq 0 $kills); do
	dd if=/dev/urandom of=/tmp/m/big$((i % 4)) bs=1M count=16 conv=fsync status=none &
	copier=$!
	sleep 1
	if [ "$i" = 0 ]; then kill $daemon; else kill -9 $daemon; fi
	wait $daemon || true
	serve
	wait $copier
done
md5sum /tmp/m/big* >/tmp/sum
wait $writer || { cat /tmp/fio.log; exit 1; }
sync -f /tmp/m
umount /tmp/m
echo 3 >/proc/sys/vm/drop_caches
mount /dev/$a /tmp/m
md5sum -c --quiet /tmp/sum
umount /tmp/m
fsck.ext4 -fn /dev/$a
fio --name=k --filename=/dev/$b --direct=1 --rw=randrw --bs=64k --iodepth=4 --ioengine=libaio --size=48M \
	--verify=crc32c --verify_fatal=1 --output=/tmp/fio.log || { cat /tmp/fio.log; exit 1; }
if dmesg | grep -E 'I/O error|critical (medium|target) error|Buffer I/O'; then exit 1; fi

detach one 1
detach two 2
[ "$(open_sessions)" = 0 ]
kill $daemon
wait $daemon
echo "tcmu: all good, $kills kills"
