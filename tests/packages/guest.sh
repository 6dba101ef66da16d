#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Run in a root that systemd has booted: the life of the Debian packages, with clients that must see no error while the
# service restarts, is upgraded, and is killed.
. /packages/lib.sh

ip link set lo up
cd /
note_files
expect "apt installs the packages" apt_get install ./packages/ebb_[0-9]*_*.deb ./packages/nbdkit-plugin-ebb_*.deb
expect "the service is up" systemctl is-active ebb.service
expect "and its target" systemctl is-active ebb.target
echo "exposure here: $(systemd-analyze security --no-pager ebb.service | tail -1)"
echo "confined by: $(cat "/proc/$(pid)/attr/current" 2>/dev/null || echo no AppArmor)"
expect "as its user" [ "$(stat -c %U "/proc/$(pid)")" = ebb ]
expect "without any capability" grep -q '^CapBnd:[[:space:]]*0000000000000000$' "/proc/$(pid)/status"

cat >/etc/ebb/ebb.yaml <<'END'
iscsi: {portals: ['127.0.0.1:3260']}
nbd: {listen: ['127.0.0.1:10809']}
memory: {max: 256M}
luns:
- {name: one, path: /var/lib/ebb/images/one.img, size: 64M}
- {name: two, path: /srv/two.img, size: 32M}
END
chown ebb: /srv
expect "NBD takes a restart" systemctl restart ebb
expect "two LUNs" sh -c "ebb lun list | grep -c online | grep -qx 2"
expect "MemoryHigh follows from the budget" [ "$(systemctl show -p MemoryHigh --value ebb)" = $((320 * 1048576 + 256 * 1048576)) ]
expect "reload applies" sh -c "sed -i 's/size: 32M/size: 48M/' /etc/ebb/ebb.yaml && systemctl reload ebb && ebb lun list | grep -q 48M"
echo 'luns: nonsense' >/run/wrong.yaml
cp /etc/ebb/ebb.yaml /run/right.yaml
cat /run/wrong.yaml >/etc/ebb/ebb.yaml
expect "a declaration that is refused fails the reload" not systemctl reload ebb
expect "and changes nothing" sh -c "ebb lun list | grep -c online | grep -qx 2"
cat /run/right.yaml >/etc/ebb/ebb.yaml
expect "nbdinfo" nbdinfo nbd://127.0.0.1/one
expect "a LUN in a folder that is not opened is refused" sh -c "! ebb lun create no /opt/no.img --size 1M"

expect "both over iSCSI" sh -c "iscsi-ls iscsi://127.0.0.1:3260 | grep -c ebb: | grep -qx 2"

load_start nbd nbd://127.0.0.1/one
iscsi_load() { # logins one after another: a restart may cut one off in the middle, but refuses none
	local n=0 cut=0 begin longest=0 took said
	while [ ! -e /run/iscsi_end ]; do
		begin=$(date +%s%3N)
		if ! said=$(iscsi-inq iscsi://127.0.0.1:3260/iqn.2026-11.local.ebb:two/0 2>&1); then
			cut=$((cut + 1))
			case $said in *refused*) echo "$said" && return 1 ;; esac
		fi
		took=$(($(date +%s%3N) - begin))
		[ $took -le $longest ] || longest=$took
		n=$((n + 1))
	done
	echo "iscsi: $n logins with INQUIRY, $cut cut off by a restart, none refused; longest $longest ms"
	[ $cut -le 5 ]
}
iscsi_load >/run/iscsi_load 2>&1 &
iscsi_load=$!
nbdkit=$(pgrep -x nbdkit)
for i in 1 2 3; do
	old=$(pid)
	expect "restart $i under load" systemctl restart ebb
	expect "another daemon" [ "$(pid)" != "$old" ]
	expect "the same nbdkit" [ "$(pgrep -x nbdkit)" = "$nbdkit" ]
	sleep 3
done
old=$(pid)
expect "upgrade under load" apt_get install ./packages/next_*.deb
expect "another daemon" [ "$(pid)" != "$old" ]
expect "the same nbdkit" [ "$(pgrep -x nbdkit)" = "$nbdkit" ]
expect "the later version" sh -c "dpkg-query -W ebb | grep -q '+1\$'"
expect "the declaration is kept" grep -q 'size: 48M' /etc/ebb/ebb.yaml
sleep 3
kill -9 "$(pid)"
expect "a killed daemon comes back" eventually ebb status
sleep 3
touch /run/iscsi_end
load_end
wait $iscsi_load || { cat /run/iscsi_load; echo "FAILED: the iSCSI client"; exit 1; }
tail -1 /run/iscsi_load
expect "socket units start it" sh -c "systemctl stop ebb && systemctl start ebb.socket ebb-iscsi.socket && ebb status && systemctl is-active ebb"
expect "and stop" systemctl stop ebb.socket ebb-iscsi.socket ebb.service
expect "nothing of it runs" not pgrep -u ebb
expect "remove" apt_get remove ebb nbdkit-plugin-ebb
expect "declaration and state stay" ls /etc/ebb/ebb.yaml /var/lib/ebb/luns/one.json
expect "purge" apt_get purge ebb nbdkit-plugin-ebb ebb-lio
expect "the declaration goes, state and LUNs stay" sh -c "! ls /etc/ebb/ebb.yaml && ls /var/lib/ebb/luns/one.json /srv/two.img"
expect "systemd has no unit of ours" not units
expect "nothing else is left behind" not left_behind
echo "all as expected"
