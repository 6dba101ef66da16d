# Kernels for tests, unpacked in a cache and never installed; sourced by scripts/vm, scripts/kmod and scripts/debug-kernel.
#
# A kernel's name is a series of Debian's packages (6.1: the release's own; 6.12: backports) or `debug` (built by
# scripts/debug-kernel). kernel_prepare NAME fetches it if the cache has none and sets
#   kernel    folder with boot/, lib/modules/ and, for packages, usr/src/
#   release   what `uname -r` says in it
#   kdir      where kbuild finds it (headers, or the built tree)
# What is cached stays the same until the folder is deleted: image and headers always match.
#
# apt runs with a configuration of its own below the cache, so that backports never come into the system's view and
# no root is needed: the machine's own Debian mirrors, whatever they are, plus the backports suite beside its release.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${EBB_VM_CACHE:-$repo/.cache/vm}

kernel_give_up() {
	echo "kernels: $1" >&2
	exit 125
}

private_apt() { # private_apt TOOL ARGUMENT...
	local tool=$1
	shift
	"$tool" -q -o Dir::Etc::sourcelist="$cache/apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State="$cache/apt/state" \
		-o Dir::Cache="$cache/apt/cache" -o APT::Sandbox::User=root -o Acquire::Retries=3 "$@"
}

# The sources and lists of the private apt; lists younger than an hour will do.
private_apt_refresh() {
	local release
	release=$(. /etc/os-release && echo "$VERSION_CODENAME")
	mkdir -p "$cache/apt/state/lists/partial" "$cache/apt/cache/archives/partial"
	[ -z "$(find "$cache/apt/fresh" -mmin -60 2>/dev/null)" ] || return 0
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		awk -v release="$release" '$3 == "main" && index($2, release) == 1 {
			how = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
			print how, $1, $2, $3
			if ($2 == release) print how, $1, release "-backports", $3
		}' | sort -u >"$cache/apt/sources.list"
	[ -s "$cache/apt/sources.list" ] || kernel_give_up "apt has no source of $release here"
	private_apt apt-get update >"$cache/apt/log" 2>&1 || { cat "$cache/apt/log" >&2; kernel_give_up "apt-get update failed"; }
	touch "$cache/apt/fresh"
}

# private_apt_unpack FOLDER PACKAGE...
private_apt_unpack() {
	local folder=$1 deb
	shift
	mkdir -p "$folder/.debs"
	(cd "$folder/.debs" && private_apt apt-get download "$@") >"$folder/.log" 2>&1 ||
		{ cat "$folder/.log" >&2; kernel_give_up "cannot fetch $*"; }
	for deb in "$folder"/.debs/*.deb; do dpkg-deb -x "$deb" "$folder"; done
	rm -rf "$folder/.debs" "$folder/.log"
}

# The newest package linux-WHAT-SERIES.x-ARCH, by the name apt knows it by: "6.1.0-56-amd64" for 6.1.
package_release() { # package_release WHAT SERIES
	local arch
	arch=$(dpkg --print-architecture)
	private_apt apt-cache pkgnames "linux-$1-$2." | sed -nE "s/^linux-$1-([0-9][^-]*(-[0-9]+)?-$arch)\$/\1/p" | sort -V | tail -1
}

unpack_kernel() { # unpack_kernel SERIES FOLDER
	local release names
	private_apt_refresh
	release=$(package_release image "$1")
	[ -n "$release" ] || kernel_give_up "apt knows no linux-image-$1.*"
	mapfile -t names < <(private_apt apt-cache depends "linux-headers-$release" |
		awk '$1 == "Depends:" && $2 ~ /^linux-(headers|kbuild)-/ {print $2}')
	private_apt_unpack "$2" "linux-image-$release" "linux-headers-$release" "${names[@]}"
	# Where the headers name each other by absolute path, they mean the system's folder.
	sed -i "s|/usr/src/|$cache/$1/usr/src/|" "$2/usr/src/linux-headers-$release/Makefile"
	ln -sfn "../../../usr/src/linux-headers-$release" "$2/lib/modules/$release/build"
	/sbin/depmod -b "$2" "$release"
	echo "$release" >"$2/release"
}

# checkpatch_prepare: the kernel's checkpatch.pl, in $cache/checkpatch/scripts.
checkpatch_prepare() {
	local folder=$cache/checkpatch
	mkdir -p "$cache"
	(
		flock 9
		[ ! -e "$folder/scripts/checkpatch.pl" ] || exit 0
		rm -rf "$folder"
		private_apt_refresh
		private_apt_unpack "$folder" linux-source-6.1
		tar -C "$folder" --strip-components=1 --wildcards -xf "$folder/usr/src/linux-source-6.1.tar.xz" \
			'*/scripts/spelling.txt' '*/scripts/const_structs.checkpatch' '*/scripts/checkpatch.pl'
		rm -rf "$folder/usr"
	) 9>"$cache/checkpatch.lock" || exit 125
}

kernel_prepare() {
	local name=$1
	kernel=$cache/$name
	mkdir -p "$cache"
	(
		flock 9
		case $name in
		6.*)
			[ ! -e "$kernel/release" ] || exit 0
			rm -rf "$kernel" "$cache/unpack.$name"
			unpack_kernel "$name" "$cache/unpack.$name"
			mv "$cache/unpack.$name" "$kernel"
			;;
		debug) "$repo/scripts/debug-kernel" "$kernel" ;;
		*) kernel_give_up "no kernel '$name': 6.1, 6.12 or debug" ;;
		esac
	) 9>"$cache/$name.lock" || exit 125
	release=$(<"$kernel/release")
	kdir=$(readlink -f "$kernel/lib/modules/$release/build")
}
