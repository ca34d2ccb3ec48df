# Names of jobs and of adapters, which change: asked for when they are wanted.

# The value of a flag among the words, or the second argument.
_jetspool_value() {
    local index
    for ((index = 1; index < COMP_CWORD; index++)); do
        case ${COMP_WORDS[index]} in
            "$1") echo "${COMP_WORDS[index + 1]}" && return ;;
            "$1="*) echo "${COMP_WORDS[index]#*=}" && return ;;
        esac
    done
    echo "$2"
}

# Files of directories of the spool (those in hold/ have a job's id before their name), and the jobs under way.
_jetspool_jobs() {
    local spool place
    spool=$(_jetspool_value --spool /var/spool/jetspool)
    for place in "$@"; do
        if [ "$place" = work ]; then
            jetspool status --spool "$spool" --json 2>/dev/null |
                sed -n '/^      "jobs": \[/,/^      \]/s/^ *"name": "\(.*\)",\{0,1\}$/\1/p'
        else
            find "$spool/$place" -maxdepth 1 -name '[^.]*.json*' 2>/dev/null | sed 's|.*/||; s/^[0-9a-z]\{11\}\.\(.*\.json\)/\1/'
        fi
    done
}

_jetspool_adapters() {
    local config
    config=$(_jetspool_value --config /etc/jetspool/jetspool.toml)
    jetspool list --config "$config" --json 2>/dev/null |
        sed -n '/^  "adapters": \[/,$s/^      "name": "\(.*\)",\{0,1\}$/\1/p'
}

_jetspool_and_names() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} names=()
    _jetspool "$@"
    case $before in
        --lora) mapfile -t names < <(_jetspool_adapters) ;;
        -*) return ;;
        *)
            case $word:${COMP_WORDS[1]} in
                -*) return ;;
                *:hold) mapfile -t names < <(_jetspool_jobs new work) ;;
                *:release) mapfile -t names < <(_jetspool_jobs hold) ;;
                *:requeue) mapfile -t names < <(_jetspool_jobs failed "done") ;;
                *:delete) mapfile -t names < <(_jetspool_jobs new work hold) ;;
                *:status) mapfile -t names < <(_jetspool_jobs work) ;;
            esac
            ;;
    esac
    local name found=()
    for name in "${names[@]}"; do
        [[ $name == "$word"* ]] && found+=("$name")
    done
    [ ${#found[@]} = 0 ] || COMPREPLY=("${found[@]}")
}

complete -F _jetspool_and_names -o nosort -o bashdefault -o default jetspool
