#!/usr/bin/env bash
# A real Apache Kafka on this machine's loopback: one node in KRaft mode, for tests and measurements.
#
#   scripts/kafka.sh start            start it and wait until it takes topics; prints KAFKA_BROKERS=…
#   scripts/kafka.sh stop             end it cleanly
#   scripts/kafka.sh status           exit 0 when it runs
#   scripts/kafka.sh clean            stop it and delete its data; the jars stay
#   scripts/kafka.sh topics ARG…      kafka-topics.sh against it, e.g. topics --create --topic clicks --partitions 4
#   scripts/kafka.sh run CLASS ARG…   any main class of Kafka's, e.g. run org.apache.kafka.tools.ProducerPerformance
#
# Needs Java 17, and Maven the first time: the broker comes as jars, about 130 MB, into the cache folder.
# Environment: KAFKA_PORT (19092; the next port is the controller's), KAFKA_VERSION (4.1.0), KAFKA_HEAP (512m),
#   KAFKA_HOME (cache folder), KAFKA_PATIENCE (90, seconds that a start may take), KAFKA_SETTINGS (a file with further
#   lines for server.properties), KAFKA_SECURED (a folder: a
#   new node then also listens on KAFKA_PORT + 2 with TLS and SASL, for the user alluvium with the password canary or a token that nobody signed, and the
#   authority that its certificate is signed by is put there as ca.pem).
set -euo pipefail

version=${KAFKA_VERSION:-4.1.0}
port=${KAFKA_PORT:-19092}
home=${KAFKA_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/alluvium/kafka}
jars=$home/jars-$version
node=$home/node-$port
broker=127.0.0.1:$port
deadline=${KAFKA_PATIENCE:-90}

fail() {
  printf 'kafka.sh: %s\n' "$1" >&2
  exit 1
}

java_with() { # CLASS ARG…, with a small heap
  java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$jars/*" "$@"
}

# Jars arrive in a folder of another name and are renamed once all are there: a broken download leaves nothing.
fetch() {
  [ ! -d "$jars" ] || return 0
  command -v mvn >/dev/null || fail 'mvn is missing; Debian package maven'
  mkdir -p "$home"
  local build=$home/fetch.$$ artifact
  mkdir "$build"
  {
    echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
    echo '<groupId>alluvium</groupId><artifactId>kafka-jars</artifactId><version>0</version><dependencies>'
    for artifact in "org.apache.kafka:kafka_2.13:$version" "org.apache.kafka:kafka-tools:$version" org.slf4j:slf4j-simple:1.7.36; do
      IFS=: read -r group name release <<<"$artifact"
      echo "<dependency><groupId>$group</groupId><artifactId>$name</artifactId><version>$release</version></dependency>"
    done
    echo '</dependencies></project>'
  } >"$build/pom.xml"
  echo "kafka.sh: fetching Apache Kafka $version" >&2
  if ! mvn --batch-mode --quiet --file "$build/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$build/jars" >"$build/log" 2>&1; then
    tail -n 20 "$build/log" >&2
    rm -rf -- "$build"
    fail 'Maven could not fetch the jars'
  fi
  mv "$build/jars" "$jars"
  rm -rf -- "$build"
}

# The broker's process id, or nothing. A number left behind may belong to another program by now, so the command line decides.
pid() {
  local number
  number=$(cat "$node/pid" 2>/dev/null) || return 0
  if tr '\0' '\n' 2>/dev/null <"/proc/$number/cmdline" | grep -qxF "$node/server.properties"; then
    echo "$number"
  fi
}

# An authority and a certificate for this machine's loopback, made for one node and thrown away with it.
certify() {
  local made=$node/secured
  mkdir -p "$made" "$KAFKA_SECURED"
  keytool -genkeypair -alias authority -keyalg EC -dname CN=authority -ext bc:c -validity 30 -keystore "$made/authority.p12" \
    -storepass canary -storetype PKCS12
  keytool -exportcert -rfc -alias authority -keystore "$made/authority.p12" -storepass canary -file "$KAFKA_SECURED/ca.pem"
  keytool -genkeypair -alias broker -keyalg EC -dname CN=broker -validity 30 -keystore "$made/broker.p12" -storepass canary \
    -storetype PKCS12
  keytool -certreq -alias broker -keystore "$made/broker.p12" -storepass canary |
    keytool -gencert -alias authority -keystore "$made/authority.p12" -storepass canary -rfc -validity 30 \
      -ext SAN=IP:127.0.0.1,DNS:localhost >"$made/broker.pem"
  cat "$KAFKA_SECURED/ca.pem" "$made/broker.pem" |
    keytool -importcert -noprompt -alias broker -keystore "$made/broker.p12" -storepass canary
}

secured_settings() {
  local module=org.apache.kafka.common.security mechanism name=listener.name.secured
  cat <<EOF
listeners=PLAINTEXT://$broker,CONTROLLER://127.0.0.1:$((port + 1)),SECURED://127.0.0.1:$((port + 2))
advertised.listeners=PLAINTEXT://$broker,SECURED://127.0.0.1:$((port + 2))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL
inter.broker.listener.name=PLAINTEXT
$name.ssl.keystore.location=$node/secured/broker.p12
$name.ssl.keystore.password=canary
$name.ssl.keystore.type=PKCS12
$name.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
$name.oauthbearer.sasl.jaas.config=$module.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
$name.plain.sasl.jaas.config=$module.plain.PlainLoginModule required user_alluvium="canary";
EOF
  for mechanism in scram-sha-256 scram-sha-512; do
    echo "$name.$mechanism.sasl.jaas.config=$module.scram.ScramLoginModule required;"
  done
}

settings() {
  cat <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://$broker,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://$broker
log.dirs=$node/log
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
EOF
  [ -z "${KAFKA_SECURED:-}" ] || secured_settings
  [ -z "${KAFKA_SETTINGS:-}" ] || cat "$KAFKA_SETTINGS"
}

start() {
  if [ -n "$(pid)" ]; then
    echo "KAFKA_BROKERS=$broker"
    return 0
  fi
  command -v java >/dev/null || fail 'java is missing; Debian package openjdk-17-jre-headless'
  fetch
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then fail "port $port is taken by another program"; fi
  mkdir -p "$node"
  settings >"$node/server.properties"
  if [ ! -e "$node/log/meta.properties" ]; then
    local users=() mechanism
    if [ -n "${KAFKA_SECURED:-}" ]; then
      certify >"$node/certify" 2>&1 || fail "$(cat "$node/certify")"
      for mechanism in 256 512; do
        users+=(--add-scram "SCRAM-SHA-$mechanism=[name=alluvium,password=canary]")
      done
    fi
    java_with kafka.tools.StorageTool format --standalone "${users[@]}" --config "$node/server.properties" \
      --cluster-id "$(java_with kafka.tools.StorageTool random-uuid)" >"$node/format" 2>&1 || fail "$(cat "$node/format")"
  fi
  : >"$node/output"
  setsid java "-Xms${KAFKA_HEAP:-512m}" "-Xmx${KAFKA_HEAP:-512m}" -XX:+UseG1GC -Djava.awt.headless=true \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info \
    -cp "$jars/*" kafka.Kafka "$node/server.properties" >"$node/output" 2>&1 </dev/null &
  local number=$! began=$SECONDS
  echo "$number" >"$node/pid"
  # The port is open before the broker may create topics; this line says that it may.
  until grep -q 'Kafka Server started' "$node/output"; do
    if ! kill -0 "$number" 2>/dev/null; then
      tail -n 20 "$node/output" >&2
      fail 'the broker ended while it started'
    fi
    if ((SECONDS - began > deadline)); then
      tail -n 20 "$node/output" >&2
      stop
      fail "the broker did not start within $deadline s"
    fi
    sleep 0.2
  done
  echo "KAFKA_BROKERS=$broker"
}

stop() {
  local number tries=0
  number=$(pid)
  if [ -n "$number" ]; then
    kill "$number"
    while kill -0 "$number" 2>/dev/null; do
      ((tries += 1))
      if ((tries == 150)); then kill -KILL "$number"; fi
      sleep 0.2
    done
  fi
  rm -f -- "$node/pid"
}

command=${1:-}
[ -z "$command" ] || shift
case $command in
  start) start ;;
  stop) stop ;;
  status)
    [ -n "$(pid)" ] || { echo "not running on $broker"; exit 1; }
    echo "running on $broker, process $(pid)"
    ;;
  clean)
    stop
    rm -rf -- "$node"
    ;;
  topics)
    fetch
    java_with org.apache.kafka.tools.TopicCommand --bootstrap-server "$broker" "$@"
    ;;
  run)
    fetch
    java_with "$@"
    ;;
  *)
    sed -n '2,/^set /{/^#/p}' "$0" >&2
    exit 2
    ;;
esac
