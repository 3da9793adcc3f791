#!/bin/sh
# Installs the greeter. A configuration that is already there is left alone.
set -e
mkdir -p /opt/greeter /etc/greeter
cat > /opt/greeter/greet <<'SCRIPT'
#!/bin/sh
. /etc/greeter/greeter.conf
echo "$GREETING, ${1:-world}"
SCRIPT
chmod 755 /opt/greeter/greet
[ -e /etc/greeter/greeter.conf ] || echo 'GREETING=hello' > /etc/greeter/greeter.conf
if [ "$1" = --system-user ]; then
    echo 'greeter:x:900:900::/opt/greeter:/bin/false' >> /etc/passwd
fi
