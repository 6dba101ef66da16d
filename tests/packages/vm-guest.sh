#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Run in a virtual machine that systemd has booted: what takes a kernel of one's own. Reached from outside meanwhile:
# iSCSI at 3260, NBD at 10809, metrics at 9810.
. /packages/lib.sh
restarts=10

disk() { echo "/dev/disk/by-path/ip-$1-iscsi-iqn.2026-11.local.ebb:$2-lun-0"; }
node() { iscsiadm -m node -p "$1" -T "iqn.2026-11.local.ebb:$2" "${@:3}"; }
backstore() { ls -d "/sys/kernel/config/target/core/"user_*"/ebb-$1"; }
confined() { grep -q '^ebbd (enforce)' "/proc/$(pid)/attr/current"; }
complaints() { journalctl -k --no-pager -o cat | grep -Ef /packages/complaints; }
refusals() { journalctl -k --no-pager -o cat | grep 'apparmor="[AD][^"]*".*ebb'; }
# fio takes a colon for the end of a name.
fio_verify() {
	fio --name=verify --filename="$(readlink -f "$1")" --size="$2" --direct=1 --rw=randwrite --bs=4k-64k --iodepth=8 --ioengine=libaio \
		--verify=crc32c --verify_fatal=1 --verify_state_save=0
}
# The last block of LUN two, where the machine that boots from it leaves its mark.
marked() { tail -c 512 /srv/two.img | grep -aq 'booted from this LUN'; }

cd /
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
echo "kernel $(uname -r), $(systemd-detect-virt || true), up $(cut -d. -f1 /proc/uptime) s"
expect "AppArmor is on" grep -qx Y /sys/module/apparmor/parameters/enabled
note_files

expect "apt installs the packages" apt_get install ./packages/ebb_[0-9]*_*.deb ./packages/nbdkit-plugin-ebb_*.deb
expect "the service is up" systemctl is-active ebb.service
expect "its profile is enforced" confined
echo "exposure here: $(systemd-analyze security --no-pager ebb.service | tail -1)"

declare_luns() { # declare_luns TEXT: with that after them
	cat >/etc/ebb/ebb.yaml <<-END
		iscsi: {portals: ['0.0.0.0:3260']}
		nbd: {listen: ['0.0.0.0:10809']}
		metrics: ['0.0.0.0:9810']
		memory: {max: 256M}
		$1
	END
}
chown ebb: /srv
declare_luns "luns: []"
expect "portals take a restart" systemctl restart ebb
luns="luns:
- {name: one, path: /var/lib/ebb/images/one.img, size: 96M}
- {name: two, path: /srv/two.img, size: 64M}"
declare_luns "$luns"
expect "two LUNs are declared: ebb apply" ebb apply
expect "and there" sh -c "ebb lun list | grep -c online | grep -qx 2"

expect "open-iscsi finds both" sh -c "iscsiadm -m discovery -t st -p 127.0.0.1:3260 | grep -c 127.0.0.1:3260 | grep -qx 2"
expect "login" node 127.0.0.1:3260 one --login
one=$(disk 127.0.0.1:3260 one)
expect "a disk" eventually test -e "$one"
expect "ext4" mkfs.ext4 -q "$one"
expect "mount" mount -o discard "$one" /mnt
expect "fio verify in it" fio_verify /mnt/file 16M
umount /mnt
expect "it is clean" e2fsck -fn "$one"
expect "logout" node 127.0.0.1:3260 one --logout
expect "nbdinfo" nbdinfo nbd://127.0.0.1/one

echo "open to others"
expect "a machine boots from LUN two and writes to it" eventually marked

initiator=$(sed -n 's/^InitiatorName=//p' /etc/iscsi/initiatorname.iscsi)
expect "modprobe takes the module of ebb-dkms" sh -c "modinfo -F filename target_core_user | grep updates/dkms"
expect "apt installs ebb-lio" apt_get install ./packages/ebb-lio_*.deb
declare_luns "$luns
- {name: three, path: /srv/three.img, size: 64M}
tcmu: true
lio:
  portals: ['127.0.0.1:3261']
  targets:
  - {iqn: 'iqn.2026-11.local.ebb:kernel', luns: [three], acls: [{initiator: '$initiator'}]}"
expect "TCMU takes a restart" systemctl restart ebb
expect "ebb-lio runs" eventually systemctl is-active ebb-lio
iscsiadm -m node -o new -p 127.0.0.1:3261 -T iqn.2026-11.local.ebb:kernel >/dev/null
expect "login to LIO" eventually node 127.0.0.1:3261 kernel --login
three=$(disk 127.0.0.1:3261 kernel)
expect "a disk" eventually test -e "$three"
expect "the module is ours: out of the kernel's tree" grep -q '^target_core_user .*(O' /proc/modules
expect "fio verify over LIO" fio_verify "$three" 16M
expect "what it wrote is read over NBD" sh -c "nbdcopy nbd://127.0.0.1/three - | cmp - $three"
expect "the profile is enforced with TCMU too" confined

expect "login to two" node 127.0.0.1:3260 two --login
two=$(disk 127.0.0.1:3260 two)
expect "a disk" eventually test -e "$two"
load_start iscsi "$two"
load_start nbd nbd://127.0.0.1/one
load_start lio "$three"
nbdkit=$(pgrep -x nbdkit)
for ((i = 1; i <= restarts; i++)); do
	old=$(pid)
	systemctl restart ebb
	eventually ebb status >/dev/null
	[ "$(pid)" != "$old" ]
	sleep 2
	load_round
done
echo "ok: $restarts restarts under load"
old=$(pid)
expect "upgrade under load" apt_get install ./packages/next_*.deb
expect "another daemon, of the later version" sh -c "[ $(pid) != $old ] && dpkg-query -W ebb | grep -q '+1\$'"
sleep 2
load_round
expect "the same nbdkit" [ "$(pgrep -x nbdkit)" = "$nbdkit" ]
expect "the declaration is kept" grep -q three /etc/ebb/ebb.yaml
load_end
expect "the profile is still enforced" confined

expect "logout" iscsiadm -m node --logoutall=all
expect "the kernel has a backstore" backstore three
declare_luns "$luns
tcmu: true"
expect "a LUN and its export through the kernel go: ebb apply" ebb apply
expect "and are gone" sh -c "ebb lun list | grep -c online | grep -qx 2"
expect "the kernel has none" not backstore three
expect "remove" apt_get remove ebb nbdkit-plugin-ebb ebb-lio
expect "nothing of it runs" not pgrep -u ebb
expect "nor confines anything" not grep ebbd /sys/kernel/security/apparmor/profiles
expect "purge" apt_get purge ebb nbdkit-plugin-ebb ebb-lio ebb-dkms
expect "modprobe takes the kernel's own module" sh -c "modinfo -F filename target_core_user | grep kernel/drivers/target"
expect "and it takes the place of ours" sh -c "modprobe -r target_core_user && modprobe target_core_user"
expect "which is gone" sh -c "grep '^target_core_user .*Live' /proc/modules | grep -v '(O'"
expect "systemd has no unit of ours" not units
expect "AppArmor has refused nothing" not refusals
expect "the kernel has not complained" not complaints
expect "nothing is left behind, but what policy keeps" not left_behind
echo "all as expected"
