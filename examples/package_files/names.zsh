# Names of jobs and of adapters, which change: asked for when they are wanted.
_jetspool_jobs() {
    local spool=/var/spool/jetspool index command=$words[1] place
    local -a names places
    setopt localoptions extendedglob
    for ((index = 1; index < $#words; index++)); do
        case $words[index] in
            --spool) spool=$words[index+1] ;;
            --spool=*) spool=${words[index]#*=} ;;
        esac
    done
    case $curcontext in
        *-hold*) places=(new work) ;;
        *-release*) places=(hold) ;;
        *-requeue*) places=(failed done) ;;
        *-delete*) places=(new work hold) ;;
        *) places=(work) ;;
    esac
    for place in $places; do
        if [[ $place == work ]]; then
            names+=(${(f)"$(jetspool status --spool $spool --json 2>/dev/null |
                sed -n '/^      "jobs": \[/,/^      \]/s/^ *"name": "\(.*\)",\{0,1\}$/\1/p')"})
        else
            names+=(${${(f)"$(print -l $spool/$place/*.json*(N:t))"}#[0-9a-z](#c11).})
        fi
    done
    compadd -a names
}

_jetspool_adapters() {
    local -a names
    names=(${(f)"$(jetspool list --json 2>/dev/null |
        sed -n '/^  "adapters": \[/,$s/^      "name": "\(.*\)",\{0,1\}$/\1/p')"})
    compadd -a names
    _files
}
