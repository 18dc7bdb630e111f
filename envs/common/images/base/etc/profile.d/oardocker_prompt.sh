# user@host in the colour of the host's role.
case ${HOSTNAME:-$(hostname)} in
    frontend) __c=34 ;;
    server) __c=31 ;;
    rsyslog) __c=35 ;;
    *) __c=33 ;;
esac
[ -n "$PS1" ] && PS1="\[\e[1;${__c}m\]\u@\h\[\e[0m\]:\w\\$ "
unset __c
