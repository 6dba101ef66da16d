# The initramfs of a virtual machine for tests: busybox and modules; the init comes from who boots it. Sourced.

# base_initramfs FOLDER MODULE...: writes it to standard output, compressed. FOLDER is where it is made; $kernel is the
# folder whose lib/modules/$release has the modules. /mods/order names them in the order in which they load.
base_initramfs() {
	local dir=$1 m f file
	shift
	mkdir -p "$dir"/{bin,proc,sys,dev,run,host,mnt,root,mods}
	cp "$(command -v busybox || echo /bin/busybox)" "$dir/bin/busybox"
	: >"$dir/mods/order"
	for m in "$@"; do
		for f in $(/sbin/modprobe -d "$kernel" -S "$release" --show-depends "$m" | awk '$1 == "insmod" {print $2}'); do
			file=$(basename "${f%.xz}")
			[ ! -f "$dir/mods/$file" ] || continue
			case $f in
			*.xz) xz -dc "$f" >"$dir/mods/$file" ;;
			*) cp "$f" "$dir/mods/$file" ;;
			esac
			echo "$file" >>"$dir/mods/order"
		done
	done
	(cd "$dir" && find . | cpio -o -H newc --quiet | gzip -1)
}
