say() { echo "\$ $*"; "$@" 2>&1; echo "-> $?"; }
say accel-config --version
say accel-config list
say accel-config list -i
say accel-config list -G -i
say accel-config enable-device dsa0
say accel-config config-engine dsa0/engine0.0 --group-id=0
say accel-config config-wq dsa0/wq0.0 --group-id=0 --mode=dedicated --wq-size=16 --priority=10 --type=user --name=app --driver-name=user
say accel-config config-wq dsa0/wq0.0 --group-id=9
say accel-config config-wq dsa0/wq0.0 --wq-size=999
say accel-config config-wq dsa0/wq0.0 --threshold=4
say accel-config enable-wq dsa0/wq0.0
say accel-config enable-device dsa0
say accel-config enable-device dsa0
say accel-config enable-wq dsa0/wq0.0
say accel-config enable-wq dsa0/wq0.0
say accel-config list
say accel-config save-config -s /tmp/c.json
say cat /tmp/c.json
say accel-config config-wq dsa0/wq0.0 --priority=3
say accel-config disable-wq dsa0/wq0.0
say accel-config enable-wq dsa0/wq0.0
say accel-config disable-wq dsa0/wq0.0
say accel-config disable-device dsa0
say accel-config disable-device dsa0
say accel-config load-config -c /tmp/c.json -e
say accel-config list
