# Names of jobs and of adapters, which change: asked for when they are wanted.
function __jetspool_spool
    set -l words (commandline -opc)
    set -l spool /var/spool/jetspool
    for index in (seq (count $words))
        switch $words[$index]
            case --spool
                set spool $words[(math $index + 1)]
            case '--spool=*'
                set spool (string replace -- --spool= '' $words[$index])
        end
    end
    echo $spool
end

function __jetspool_jobs
    set -l spool (__jetspool_spool)
    for place in $argv
        if test $place = work
            jetspool status --spool $spool --json 2>/dev/null |
                sed -n '/^      "jobs": \[/,/^      \]/s/^ *"name": "\(.*\)",\{0,1\}$/\1/p'
        else
            find $spool/$place -maxdepth 1 -name '[^.]*.json*' 2>/dev/null | sed 's|.*/||; s/^[0-9a-z]\{11\}\.\(.*\.json\)/\1/'
        end
    end
end

function __jetspool_adapters
    jetspool list --json 2>/dev/null | sed -n '/^  "adapters": \[/,$s/^      "name": "\(.*\)",\{0,1\}$/\1/p'
end

complete -c jetspool -n "__fish_seen_subcommand_from hold" -f -a "(__jetspool_jobs new work)"
complete -c jetspool -n "__fish_seen_subcommand_from release" -f -a "(__jetspool_jobs hold)"
complete -c jetspool -n "__fish_seen_subcommand_from requeue" -f -a "(__jetspool_jobs failed done)"
complete -c jetspool -n "__fish_seen_subcommand_from delete" -f -a "(__jetspool_jobs new work hold)"
complete -c jetspool -n "__fish_seen_subcommand_from status" -f -a "(__jetspool_jobs work)"
complete -c jetspool -n "__fish_seen_subcommand_from ask logits" -l lora -a "(__jetspool_adapters)"
