package alluvium;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.QueryableStoreTypes;

/**
 * Clicks without bots per minute and country: count, sum of bytes, mean latency.
 *
 * <p>Arguments: brokers, topic, number of events, a folder for state. Prints one line of JSON. CPU time is that of the
 * process less what the JVM had used before {@code main}.
 */
public final class Race {
  private static final String STORE = "clicks";

  @JsonIgnoreProperties(ignoreUnknown = true)
  public record Click(String ts, String country, double latency_ms, long bytes, boolean is_bot) {}

  public record Total(long clicks, long bytes, double ms) {
    Total add(Click click) {
      return new Total(clicks + 1, bytes + click.bytes, ms + click.latency_ms);
    }
  }

  public static void main(String[] arguments) throws Exception {
    double startCpu = cpuSeconds();
    long begin = System.nanoTime();
    String brokers = arguments[0];
    String topic = arguments[1];
    long events = Long.parseLong(arguments[2]);
    String application = "streams-" + System.currentTimeMillis();

    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[3]);
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");

    LongAdder bots = new LongAdder();
    LongAdder counted = new LongAdder();
    StreamsBuilder builder = new StreamsBuilder();
    builder.stream(
            topic,
            Consumed.with(Serdes.ByteArray(), json())
                .withTimestampExtractor(
                    (record, time) -> Instant.parse(((Click) record.value()).ts()).toEpochMilli()))
        .filter(
            (key, click) -> {
              if (click.is_bot()) {
                bots.increment();
              }
              return !click.is_bot();
            })
        .groupBy((key, click) -> click.country(), Grouped.with(Serdes.String(), json()))
        // Partitions are read at different speeds, so event time jumps while catching up: with a short grace much of
        // the topic would be dropped as late, without a word.
        .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMinutes(1), Duration.ofHours(1)))
        .aggregate(
            () -> new Total(0, 0, 0),
            (country, click, total) -> {
              counted.increment();
              return total.add(click);
            },
            Materialized.<String, Total, org.apache.kafka.streams.state.WindowStore<org.apache.kafka.common.utils.Bytes, byte[]>>as(
                    STORE)
                .withKeySerde(Serdes.String())
                .withValueSerde(totals()));

    try (KafkaStreams streams = new KafkaStreams(builder.build(), settings)) {
      streams.start();
      while (bots.sum() + counted.sum() < events) {
        if (streams.state() == KafkaStreams.State.ERROR) {
          throw new IllegalStateException("the application stopped with an error");
        }
        Thread.sleep(5);
      }
      long groups = 0;
      long clicks = 0;
      long bytes = 0;
      var store =
          streams.store(
              StoreQueryParameters.fromNameAndType(
                  STORE, QueryableStoreTypes.<String, Total>windowStore()));
      try (var all = store.all()) {
        while (all.hasNext()) {
          Total total = all.next().value;
          groups += 1;
          clicks += total.clicks();
          bytes += total.bytes();
        }
      }
      double wall = (System.nanoTime() - begin) / 1e9;
      System.out.printf(
          "{\"groups\":%d,\"clicks\":%d,\"bytes\":%d,\"wall\":%f,\"cpu\":%f,\"peak_mib\":%f}%n",
          groups, clicks, bytes, wall, cpuSeconds() - startCpu, peakMib());
    }
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
      List<String> own =
          admin.listTopics().names().get().stream().filter(name -> name.startsWith(application)).toList();
      admin.deleteTopics(own).all().get();
    }
  }

  private static Serde<Click> json() {
    ObjectMapper mapper = new ObjectMapper();
    ObjectReader reader = mapper.readerFor(Click.class);
    Serializer<Click> serializer = (topic, click) -> unchecked(() -> mapper.writeValueAsBytes(click));
    Deserializer<Click> deserializer = (topic, bytes) -> unchecked(() -> reader.readValue(bytes));
    return Serdes.serdeFrom(serializer, deserializer);
  }

  private static Serde<Total> totals() {
    Serializer<Total> serializer =
        (topic, total) ->
            ByteBuffer.allocate(24).putLong(total.clicks()).putLong(total.bytes()).putDouble(total.ms()).array();
    Deserializer<Total> deserializer =
        (topic, bytes) -> {
          ByteBuffer buffer = ByteBuffer.wrap(bytes);
          return new Total(buffer.getLong(), buffer.getLong(), buffer.getDouble());
        };
    return Serdes.serdeFrom(serializer, deserializer);
  }

  private interface Reading<T> {
    T get() throws IOException;
  }

  private static <T> T unchecked(Reading<T> reading) {
    try {
      return reading.get();
    } catch (IOException error) {
      throw new java.io.UncheckedIOException(error);
    }
  }

  private static double cpuSeconds() {
    var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    return system.getProcessCpuTime() / 1e9;
  }

  private static double peakMib() throws IOException {
    Map<String, String> lines = new HashMap<>();
    for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
      int colon = line.indexOf(':');
      lines.put(line.substring(0, colon), line.substring(colon + 1).trim());
    }
    return Double.parseDouble(lines.get("VmHWM").replace(" kB", "")) / 1024;
  }
}
