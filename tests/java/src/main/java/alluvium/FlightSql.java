package alluvium;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** The JDBC driver of Flight SQL against a running server: values, parameters, metadata, errors, cancel. */
public final class FlightSql {
    private static final Instant NOON = Instant.parse("2026-03-01T12:00:00Z");
    private static final String ENDLESS =
            "SELECT count(*) FROM generate_series(1, 1000000000) a, generate_series(1, 1000000000) b"
                    + " WHERE a.value + b.value < 0";

    private final String url;

    private FlightSql(String url) {
        this.url = url;
    }

    public static void main(String[] arguments) throws Exception {
        String url = "jdbc:arrow-flight-sql://" + arguments[0] + ":" + arguments[1] + "/?useEncryption=false";
        // Without a name, and with one: then the driver shakes hands first.
        for (String user : List.of("", "&user=analyst&password=anything")) {
            FlightSql client = new FlightSql(url + user);
            client.values();
            client.nested();
            client.parameters();
            client.refusals();
            System.out.println("values, parameters, refusals" + user + ": right");
        }
        FlightSql client = new FlightSql(url);
        client.metadata();
        client.cancels();
        new FlightSql(url + "&alluvium-read=committed").mode("committed");
        client.mode("fresh");
        System.out.println("metadata, cancel, headers: right");
    }

    private Connection connect() throws SQLException {
        return DriverManager.getConnection(url);
    }

    private void values() throws SQLException {
        String query = "SELECT * FROM every_type WHERE name = 'ann'";
        try (Connection connection = connect();
                Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery(query)) {
            same(true, row.next());
            same(NOON, row.getTimestamp("window_start").toInstant());
            same("ann", row.getString("name"));
            same(7, row.getInt("number"));
            same(9_007_199_254_740_993L, row.getLong("big"));
            same(true, row.getBoolean("truth"));
            same("2026-02-28", row.getDate("day").toString());
            same(new BigDecimal("12.50"), row.getBigDecimal("price"));
            same(2L, row.getLong("events"));
            same(new BigDecimal("18014398509481986"), row.getBigDecimal("bigs"));
            same(0.75, row.getDouble("doubles"));
            same(0.375, row.getDouble("mean"));
            same(1L, row.getLong("names"));
            same(false, row.next());
        }
        String many = "SELECT value FROM generate_series(1, 100000) AS t(value)";
        try (Connection connection = connect();
                Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery(many)) {
            long sum = 0;
            while (row.next()) {
                sum += row.getLong(1);
            }
            same(5_000_050_000L, sum);
        }
    }

    /** Stored states and dead letters: structs, lists of structs, bytes. */
    private void nested() throws SQLException {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            String panes = "SELECT mean, mean_price, names, p50 FROM panes.every_type WHERE name = 'bob'";
            try (ResultSet row = statement.executeQuery(panes)) {
                row.next();
                same(Types.JAVA_OBJECT, row.getMetaData().getColumnType(1));
                Map<?, ?> mean = (Map<?, ?>) row.getObject("mean");
                same(-1.5, mean.get("sum"));
                same(1L, mean.get("count"));
                same(new BigDecimal("-0.01"), ((Map<?, ?>) row.getObject("mean_price")).get("sum"));
                same(true, row.getBytes("names").length > 8);
                same(true, row.getBytes("p50").length > 8);
                same(false, row.next());
            }
            try (ResultSet row = statement.executeQuery("SELECT key, headers, payload FROM dead_letters.types")) {
                row.next();
                same("[0, -1]", Arrays.toString(row.getBytes("key")));
                same(true, new String(row.getBytes("payload"), StandardCharsets.UTF_8).startsWith("{\"ts\":\"2026"));
                Object[] headers = (Object[]) row.getArray("headers").getArray();
                same(2, headers.length);
                same(true, headers[0].toString().contains("trace"));
            }
            String literals = "SELECT ARRAY['a b', NULL, ''] AS texts, timestamp '2026-03-01 12:00:00.5' AS naive";
            try (ResultSet row = statement.executeQuery(literals)) {
                row.next();
                List<String> texts = new ArrayList<>();
                for (Object text : (Object[]) row.getArray("texts").getArray()) {
                    texts.add(text == null ? null : text.toString());
                }
                same(Arrays.asList("a b", null, ""), texts);
                same(true, row.getString("naive").startsWith("2026-03-01 12:00:00.5"));
            }
        }
    }

    private void parameters() throws SQLException {
        try (Connection connection = connect()) {
            String query = "SELECT count(*) FROM every_type WHERE name = ? AND number = ? AND big = ? AND truth = ?"
                    + " AND price = ? AND window_start = ?::timestamptz";
            try (PreparedStatement statement = connection.prepareStatement(query)) {
                for (int turn = 0; turn < 3; turn++) {
                    statement.setString(1, turn % 2 == 0 ? "ann" : "nobody");
                    statement.setInt(2, 7);
                    statement.setLong(3, 9_007_199_254_740_993L);
                    statement.setBoolean(4, true);
                    statement.setBigDecimal(5, new BigDecimal("12.50"));
                    // The driver sends the milliseconds of setTimestamp as if they were microseconds.
                    statement.setString(6, NOON.toString());
                    try (ResultSet row = statement.executeQuery()) {
                        row.next();
                        same(turn % 2 == 0 ? 1L : 0L, row.getLong(1));
                    }
                }
            }
            try (PreparedStatement statement = connection.prepareStatement("SELECT ?::int + ?::bigint")) {
                same(2, statement.getParameterMetaData().getParameterCount());
                same(Types.BIGINT, statement.getMetaData().getColumnType(1));
                // What stands in a cast is announced as text.
                statement.setString(1, "1");
                statement.setString(2, "2");
                try (ResultSet row = statement.executeQuery()) {
                    row.next();
                    same(3L, row.getLong(1));
                }
            }
        }
    }

    private void refusals() throws SQLException {
        refused("SELECT * FROM every_typ", "did you mean every_type?");
        refused("SELECT eventz FROM every_type", "events");
        refused("SELEC 1", "line 1");
        refused("DELETE FROM every_type", "use SELECT");
        refused("SET alluvium.read = 'committed'", "alluvium-read");
    }

    private void refused(String query, String words) throws SQLException {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            statement.executeQuery(query);
        } catch (SQLException error) {
            same(true, everything(error).contains(words) || fail(everything(error)));
            return;
        }
        throw new AssertionError(query + " was answered");
    }

    private static String everything(Throwable error) {
        StringBuilder text = new StringBuilder();
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            text.append(cause.getMessage()).append('\n');
        }
        return text.toString();
    }

    private static boolean fail(String text) {
        throw new AssertionError(text);
    }

    private void metadata() throws SQLException, IllegalAccessException {
        try (Connection connection = connect()) {
            DatabaseMetaData metadata = connection.getMetaData();
            same("Alluvium", metadata.getDatabaseProductName());
            same(true, connection.isReadOnly());
            same("\"", metadata.getIdentifierQuoteString());
            same(false, metadata.supportsTransactions());
            same(List.of("alluvium"), names(metadata.getCatalogs(), "TABLE_CAT"));
            same(true, names(metadata.getSchemas(), "TABLE_SCHEM").containsAll(List.of("public", "panes", "system")));
            same(List.of("TABLE", "VIEW"), names(metadata.getTableTypes(), "TABLE_TYPE"));
            List<String> tables = names(metadata.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME");
            same(List.of("every_type"), tables);
            TreeMap<String, Integer> types = new TreeMap<>();
            try (ResultSet columns = metadata.getColumns(null, "public", "every_type", "%")) {
                while (columns.next()) {
                    types.put(columns.getString("COLUMN_NAME"), columns.getInt("DATA_TYPE"));
                }
            }
            same(Types.VARCHAR, types.get("name"));
            same(Types.BIGINT, types.get("events"));
            same(Types.DECIMAL, types.get("price"));
            same(
                    List.of("window_start", "name", "number", "big", "truth", "day", "price", "moment"),
                    names(metadata.getPrimaryKeys(null, "public", "every_type"), "COLUMN_NAME"));
            same(List.of(), names(metadata.getImportedKeys(null, "public", "every_type"), "PKCOLUMN_NAME"));
            same(List.of(), names(metadata.getExportedKeys(null, "public", "every_type"), "PKCOLUMN_NAME"));
            for (Method question : DatabaseMetaData.class.getMethods()) {
                answered(metadata, question);
            }
        }
    }

    /** Tools ask everything when they connect: the driver may refuse a question, and never stumbles over our answer. */
    private static void answered(DatabaseMetaData metadata, Method question)
            throws SQLException, IllegalAccessException {
        if (question.getParameterCount() > 0) {
            return;
        }
        try {
            if (question.invoke(metadata) instanceof ResultSet rows) {
                rows.close();
            }
        } catch (InvocationTargetException refused) {
            if (refused.getCause() instanceof NullPointerException) {
                throw new AssertionError(question.getName(), refused.getCause());
            }
        }
    }

    private void mode(String expected) throws SQLException {
        try (Connection connection = connect();
                Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery("SHOW alluvium.read")) {
            row.next();
            same(expected, row.getString(1));
        }
    }

    private void cancels() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            var timer = Executors.newSingleThreadScheduledExecutor();
            long[] ordered = {0};
            timer.schedule(
                    () -> {
                        ordered[0] = System.nanoTime();
                        statement.cancel();
                        return null;
                    },
                    1,
                    TimeUnit.SECONDS);
            try (ResultSet row = statement.executeQuery(ENDLESS)) {
                while (row.next()) {}
                throw new AssertionError("an endless query ended");
            } catch (SQLException cancelled) {
                long took = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - ordered[0]);
                same(true, ordered[0] > 0 && took < 1000 || fail(took + " ms: " + everything(cancelled)));
            } finally {
                timer.shutdown();
            }
        }
    }

    private static List<String> names(ResultSet rows, String column) throws SQLException {
        List<String> found = new ArrayList<>();
        try (rows) {
            while (rows.next()) {
                found.add(rows.getString(column));
            }
        }
        return found;
    }

    private static void same(Object expected, Object found) {
        if (expected == null ? found != null : !expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }
}
