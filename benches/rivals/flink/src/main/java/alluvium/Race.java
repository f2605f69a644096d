package alluvium;

import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

/**
 * Clicks without bots per minute and country: count, sum of bytes, mean latency, as a streaming query that ends where
 * the topic ended when it began.
 *
 * <p>Arguments: brokers, topic, number of events (not needed here), a folder for checkpoints. Prints one line of JSON.
 * CPU time is that of the process less what the JVM had used before {@code main}.
 */
public final class Race {
  private static final String SOURCE =
      """
      CREATE TABLE clicks (
        ts STRING, country STRING, latency_ms DOUBLE, `bytes` BIGINT, is_bot BOOLEAN,
        event_time AS TO_TIMESTAMP(ts, 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z'''),
        WATERMARK FOR event_time AS event_time - INTERVAL '2' MINUTE
      ) WITH (
        'connector' = 'kafka', 'topic' = '%s', 'properties.bootstrap.servers' = '%s',
        'properties.group.id' = 'flink', 'scan.startup.mode' = 'earliest-offset',
        'scan.bounded.mode' = 'latest-offset', 'format' = 'json'
      )""";

  private static final String JOB =
      """
      SELECT window_start, country, COUNT(*) AS clicks, SUM(`bytes`) AS `bytes`, AVG(latency_ms) AS mean_ms
      FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(event_time), INTERVAL '1' MINUTE))
      WHERE NOT is_bot
      GROUP BY window_start, window_end, country""";

  public static void main(String[] arguments) throws Exception {
    double startCpu = cpuSeconds();
    long begin = System.nanoTime();
    Configuration settings = new Configuration();
    settings.setString("parallelism.default", "2");
    settings.setString("execution.checkpointing.interval", "10s");
    settings.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
    settings.setString("execution.checkpointing.dir", Path.of(arguments[3]).toUri().toString());
    settings.setString("table.exec.source.idle-timeout", "1s");
    TableEnvironment tables =
        TableEnvironment.create(
            EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(settings).build());
    tables.executeSql(SOURCE.formatted(arguments[1], arguments[0]));
    long groups = 0;
    long clicks = 0;
    long bytes = 0;
    try (CloseableIterator<Row> rows = tables.executeSql(JOB).collect()) {
      while (rows.hasNext()) {
        Row row = rows.next();
        groups += 1;
        clicks += (long) row.getField("clicks");
        bytes += (long) row.getField("bytes");
      }
    }
    double wall = (System.nanoTime() - begin) / 1e9;
    System.out.printf(
        "{\"groups\":%d,\"clicks\":%d,\"bytes\":%d,\"wall\":%f,\"cpu\":%f,\"peak_mib\":%f}%n",
        groups, clicks, bytes, wall, cpuSeconds() - startCpu, peakMib());
  }

  private static double cpuSeconds() {
    var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    return system.getProcessCpuTime() / 1e9;
  }

  private static double peakMib() throws IOException {
    for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
      if (line.startsWith("VmHWM:")) {
        return Double.parseDouble(line.replaceAll("[^0-9]", "")) / 1024;
      }
    }
    throw new IOException("/proc/self/status has no VmHWM");
  }
}
