# SPDX-License-Identifier: GPL-2.0-or-later
# What checks in a booted root have in common; sourced.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
said=/run/said

expect() { # expect WHAT COMMAND...
	local what=$1
	shift
	if "$@" >$said 2>&1; then
		echo "ok: $what"
	else
		cat $said
		systemctl status --no-pager -n 20 ebb || true
		journalctl --no-pager -n 60
		echo "FAILED: $what"
		exit 1
	fi
}
not() { ! "$@"; }
eventually() { # eventually COMMAND...: within ten minutes
	local end=$((SECONDS + 600))
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}
apt_get() { apt-get -q -y -o APT::Install-Recommends=false "$@"; }
pid() { systemctl show -p MainPID --value ebb; }

# Of ours, that systemd could start, or that run or have failed.
units() { { systemctl list-unit-files --no-legend 'ebb*' && systemctl list-units --plain --no-legend 'ebb*'; } | grep .; }

# note_files: what is there now. left_behind: what has come since, and whatever has our name; fails when that is nothing.
# But for what a purge keeps by policy (docs/service.md: state, unless told to take it, and files of LUNs), and what
# others have written meanwhile.
files() { find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /packages \) -prune -o -print | sort; }
note_files() { files >/run/files.before; }
left_behind() {
	local kept='^/var/lib/ebb(-lio)?(/|$)|^/srv/(two|three)\.img$'
	local others='^/var/(log|cache|lib/apt|lib/dpkg)/|^/etc/iscsi/' names='webbrowser|^/etc/iscsi/'
	files >/run/files.after
	{
		comm -13 /run/files.before /run/files.after | grep -Ev "$others"
		grep -E 'ebb[^/]*$|/updates/dkms/target_core_user' /run/files.after
		find /run -xdev -name '*ebb*'
	} | grep -Ev "$kept|$names" | sort -u | grep .
}

# load_start NAME WHERE: load.py in the background. Its input is a pipe that load_round writes to and load_end closes
# (a load started later has it open too, so they end from the last to the first).
declare -A load_pid load_fd
load_start() {
	local fd
	mkfifo "/run/load.$1"
	python3 /packages/load.py "$1" "$2" <"/run/load.$1" >"/run/load.$1.said" 2>&1 &
	load_pid[$1]=$!
	exec {fd}>"/run/load.$1"
	load_fd[$1]=$fd
	expect "$1 is under load" eventually grep -q running "/run/load.$1.said"
}
load_round() {
	local fd
	for fd in "${load_fd[@]}"; do echo >&"$fd" || true; done # one that has failed is told of at the end
}
load_end() {
	local name fd
	for fd in "${load_fd[@]}"; do exec {fd}>&-; done
	for name in "${!load_pid[@]}"; do
		wait "${load_pid[$name]}" || { cat "/run/load.$name.said"; echo "FAILED: $name under load"; exit 1; }
		sed 1d "/run/load.$name.said"
	done
}
