# SPDX-License-Identifier: GPL-2.0-or-later
# The packages in a virtual machine: $root on a disk of its own, with Debian's kernel. Sourced by scripts/check-packages.
#
# QEMU emulates it (no KVM): code runs some ten times slower. Only the compiling of ebb-dkms is done outside, in a chroot
# into the same root, by the same apt and dkms. vm-guest.sh is what it does; when it says that it is open to others, they
# come from outside, through ports forwarded from this machine's loopback: Prometheus' promtool, QEMU's tools over NBD, and
# a second machine, over iSCSI, that boots from a LUN.
. scripts/initramfs.sh

# What a machine boots from: GRUB, the kernel, and an initramfs with lun-init.
boot_disk() { # boot_disk FILE
	mkdir -p "$work/disk/boot/grub"
	cp "$root/boot/vmlinuz-$release" "$work/disk/boot/vmlinuz"
	install -m 755 tests/packages/lun-init "$work/init"
	{ (cd "$work" && echo init | cpio -o -H newc --quiet) && kernel=$root base_initramfs "$work/initramfs" virtio_pci virtio_blk; } \
		>"$work/disk/boot/initrd"
	cat >"$work/disk/boot/grub/grub.cfg" <<-END
		linux /boot/vmlinuz console=ttyS0 quiet panic=-1 no_timer_check
		initrd /boot/initrd
		boot
	END
	logged grub-mkrescue -o "$1" "$work/disk"
}
logged() { "$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }; }
emulator=(qemu-system-x86_64 -accel tcg,thread=multi -cpu "max,erms=off,fsrm=off" -nodefaults -nographic -no-reboot -monitor none)

make_machine() {
	chroot_only
	# What is not looked at does not have to start.
	in_root systemctl --quiet mask tcmu-runner.service rtslib-fb-targetctl.service getty@tty1.service serial-getty@ttyS0.service
	echo "vm: ebb-dkms is built"
	apt_root install $(cd "$root" && printf './%s ' packages/ebb-dkms_*.deb)
	release=$(cd "$root/lib/modules" && echo *)
	expect "for $release" sh -c "ls $root/lib/modules/$release/updates/dkms/target_core_user.ko*"
	boot_disk "$work/boot.img"
	run_at_boot /packages/vm-guest.sh /dev/ttyS1
	umount "$root/proc"
	rm "$root/usr/sbin/policy-rc.d"
	rm -f "$root"/packages/*.rpm "$root"/packages/*-dbgsym_*.deb
	logged mke2fs -q -t ext4 -d "$root" "$work/disk.img" 4G
}

others() {
	local promtool=.cache/promtool
	[ -x $promtool ] || promtool=promtool
	expect "promtool checks the metrics" sh -c "curl -sf http://127.0.0.1:$metrics/metrics | $promtool check metrics"
	expect "qemu-img writes a boot disk to LUN two" qemu-img convert -n -f raw -O raw "$work/boot.img" "nbd://127.0.0.1:$nbd/two"
	expect "a machine boots from it" timeout 600 "${emulator[@]}" -m 256 -serial "file:$work/guest.console" \
		-drive "file=iscsi://127.0.0.1:$iscsi/iqn.2026-11.local.ebb:two/0,format=raw,if=virtio"
	expect "and writes to it" grep -a "the mark is written" "$work/guest.console"
}

vm_check() {
	make_machine
	read -r iscsi nbd metrics <<<"$(free_ports 3)"
	timeout 2400 "${emulator[@]}" -smp 2 -m 1536 -kernel "$root/boot/vmlinuz-$release" -initrd "$root/boot/initrd.img-$release" \
		-append "root=/dev/vda rw console=ttyS0 panic=-1 loglevel=4 net.ifnames=0 no_timer_check tsc=reliable watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=60" \
		-drive "file=$work/disk.img,format=raw,if=virtio,cache=unsafe" \
		-netdev "user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:$iscsi-:3260,hostfwd=tcp:127.0.0.1:$nbd-:10809,hostfwd=tcp:127.0.0.1:$metrics-:9810" \
		-device virtio-net-pci,netdev=n -serial "file:$work/console" -serial "file:$work/output" </dev/null >"$work/qemu" 2>&1 &
	daemon=$!
	until grep -qs '^open to others' "$work/output" || ! kill -0 $daemon 2>/dev/null; do sleep 1; done
	if kill -0 $daemon 2>/dev/null; then others; fi
	wait $daemon || true
	daemon=
	tr -d '\r' <"$work/output" >"$work/output.text"
	ended_well "$work/output.text" "$work/console"
}
