#!/usr/bin/env bash
# In the guest: libiscsi's suite against LIO's iSCSI target with a LUN of ours as its user backstore, one test at a time.
# LIO answers reservations and some more by itself, and refuses a part by its own rules; so what counts is that not fewer
# pass than with LIO's own backstores (117 of 230 with fileio). What failed is printed.
# check: soak alone seconds=2400
set -euo pipefail
build=${EBB_BUILD:-build-test}
ebb=$build/appliance/cli/ebb
dir=/tmp/ebb
core=/sys/kernel/config/target/core
iscsi=/sys/kernel/config/target/iscsi
iqn=iqn.2026-11.local.ebb:lio
size=$((128 << 20))
# LIO keeps reservations in files, as a kernel thread sees them: below the root of the first process.
mkdir -p $dir /etc/target /proc/1/root/etc/{target,rtslib-fb-target}/{pr,alua} /proc/1/root/var/target/{pr,alua}
for m in target_core_user iscsi_target_mod crc32c; do modprobe $m; done
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
"$ebb" serve "$dir/a.img,name=a,size=$size" --tcmu --iscsi none --nbd none --metrics none --state $dir/state \
	--socket $dir/ctl >$dir/out 2>$dir/err &
daemon=$!
for _ in $(seq 600); do grep -qx ready $dir/out && break; sleep 0.1; done
mkdir -p $core/user_0/a
echo "dev_config=ebb/a,dev_size=$size" >$core/user_0/a/control
echo 6a1ff40e-3f0c-4a4c-9a8f-0123456789ab >$core/user_0/a/wwn/vpd_unit_serial
echo 1 >$core/user_0/a/enable
mkdir -p $iscsi/$iqn/tpgt_1/np/127.0.0.1:3261 $iscsi/$iqn/tpgt_1/lun/lun_0
ln -s $core/user_0/a $iscsi/$iqn/tpgt_1/lun/lun_0/a
for a in authentication=0 generate_node_acls=1 demo_mode_write_protect=0 cache_dynamic_acls=1; do
	echo "${a#*=}" >$iscsi/$iqn/tpgt_1/attrib/"${a%=*}"
done
echo 1 >$iscsi/$iqn/tpgt_1/enable

rc=0
scripts/conformance --limit 200 --only "${ONLY:-}" --json $dir/json "lio=iscsi://127.0.0.1:3261/$iqn/0" || rc=$?
[ ! -d /mnt/keep ] || cp $dir/json /mnt/keep/lio-conformance.json
cat $dir/err
kill -0 $daemon
passed=$(grep -c '"pass"' $dir/json || true)
echo "passed: $passed (scripts/conformance: $rc)"
[ "$passed" -ge 117 ]
