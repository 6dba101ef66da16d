# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for ebb(1). Commands and options come from its help, so that there is one list of them; names of LUNs and
# sessions from the appliance that answers.
_ebb_commands() { ebb --help 2>/dev/null | sed -nE 's/^  ([a-z]+( [a-z]+)?)  +.*/\1/p'; }
_ebb_options() { ebb $1 --help 2>/dev/null | grep -oE -- '(^|[ ,])--[a-z][a-z-]*' | tr -d ' ,' | sort -u; }
_ebb_names() { # _ebb_names COLUMN COMMAND...: a column of a table; names only, for compgen -W expands what it is given
	local column=$1
	shift
	timeout "${EBB_COMPLETION_WAIT:-2}" ebb "${_ebb_socket[@]}" "$@" 2>/dev/null | awk -v c="$column" 'NR > 1 && $c ~ /^[A-Za-z0-9._-]+$/ {print $c}'
}

_ebb() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} i command='' words=()
	local _ebb_socket=()
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--socket)
			_ebb_socket=(--socket "${COMP_WORDS[++i]}")
			;;
		-*) ;;
		*) words+=("${COMP_WORDS[i]}") ;;
		esac
	done
	local all
	all=$(_ebb_commands)
	if grep -qxF -- "${words[*]:0:2}" <<<"$all" && [ ${#words[@]} -ge 2 ]; then
		command="${words[*]:0:2}"
	elif [ ${#words[@]} -ge 1 ] && grep -qxF -- "${words[0]}" <<<"$all"; then
		command=${words[0]}
	fi
	case $prev in
	--socket | --config | --root | --state) mapfile -t COMPREPLY < <(compgen -f -- "$cur") && return ;;
	--sort) mapfile -t COMPREPLY < <(compgen -W "name ops read written latency depth hits cached errors" -- "$cur") && return ;;
	--io) mapfile -t COMPREPLY < <(compgen -W "auto direct buffered" -- "$cur") && return ;;
	--cache) mapfile -t COMPREPLY < <(compgen -W "auto read none" -- "$cur") && return ;;
	--log-level) mapfile -t COMPREPLY < <(compgen -W "error warn info debug" -- "$cur") && return ;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_ebb_options "$command")" -- "$cur")
		return
	fi
	case $command in
	'')
		if [ ${#words[@]} -eq 0 ]; then
			mapfile -t COMPREPLY < <(compgen -W "$(cut -d' ' -f1 <<<"$all" | sort -u)" -- "$cur")
		else
			mapfile -t COMPREPLY < <(compgen -W "$(sed -n "s/^${words[0]} //p" <<<"$all")" -- "$cur")
		fi
		;;
	'lun show' | 'lun resize' | 'lun delete' | 'lun copy' | 'lun sanitize' | explain)
		mapfile -t COMPREPLY < <(compgen -W "$(_ebb_names 1 lun list)" -- "$cur")
		;;
	'session kick') mapfile -t COMPREPLY < <(compgen -W "$(_ebb_names 1 session list)" -- "$cur") ;;
	memory) mapfile -t COMPREPLY < <(compgen -W "$([ ${#words[@]} -gt 1 ] || echo release)" -- "$cur") ;;
	serve | doctor | 'lun create' | mount) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	esac
}
complete -o filenames -F _ebb ebb
