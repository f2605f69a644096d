package alluvium;

import java.io.InputStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** The JDBC driver of Postgres against a running server: values, parameters, metadata, errors, cancel. */
public final class Postgres {
    private static final OffsetDateTime NOON = OffsetDateTime.parse("2026-03-01T12:00:00Z");

    private final String url;

    private Postgres(String url) {
        this.url = url;
    }

    public static void main(String[] arguments) throws Exception {
        String url = "jdbc:postgresql://" + arguments[0] + ":" + arguments[1] + "/alluvium?user=analyst";
        // Simple protocol, extended protocol, and binary values from the first execution on.
        for (String mode : List.of("preferQueryMode=simple", "prepareThreshold=5", "prepareThreshold=-1")) {
            Postgres client = new Postgres(url + "&" + mode);
            client.values();
            client.nested();
            client.parameters(mode.endsWith("simple"));
            client.refusals();
            System.out.println(mode + ": right");
        }
        Postgres client = new Postgres(url);
        client.metadata();
        client.cursors();
        client.cancels();
        for (String mode : List.of("preferQueryMode=simple", "prepareThreshold=5", "prepareThreshold=-1")) {
            new Postgres(url + "&" + mode).tools();
        }
        System.out.println("metadata, cursors, cancel, tools: right");
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
            same(NOON, row.getObject("window_start", OffsetDateTime.class));
            same("ann", row.getString("name"));
            same(7, row.getInt("number"));
            same(9_007_199_254_740_993L, row.getLong("big"));
            same(true, row.getBoolean("truth"));
            same(Date.valueOf("2026-02-28"), row.getDate("day"));
            same(new BigDecimal("12.50"), row.getBigDecimal("price"));
            same(OffsetDateTime.parse("2026-02-28T23:59:59.123456Z"), row.getObject("moment", OffsetDateTime.class));
            same(2L, row.getLong("events"));
            same(new BigDecimal("18014398509481986"), row.getBigDecimal("bigs"));
            same(0.75, row.getDouble("doubles"));
            same(0.375, row.getDouble("mean"));
            same(1L, row.getLong("names"));
            same(false, row.next());
        }
    }

    /** What holds values, bytes, and moments without a zone: stored states and dead letters have them. */
    private void nested() throws SQLException {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            String panes = "SELECT mean, mean_price, names, p50 FROM panes.every_type WHERE name = 'bob'";
            try (ResultSet row = statement.executeQuery(panes)) {
                row.next();
                same("(-1.5,1)", row.getString("mean"));
                same("(-0.01,1)", row.getObject("mean_price").toString());
                same(Types.OTHER, row.getMetaData().getColumnType(1));
                same(Types.BINARY, row.getMetaData().getColumnType(3));
                same(true, row.getBytes("names").length > 8);
                same(true, row.getBytes("p50").length > 8);
                same(false, row.next());
            }
            try (ResultSet row = statement.executeQuery("SELECT * FROM dead_letters.types")) {
                row.next();
                same("[0, -1]", Arrays.toString(row.getBytes("key")));
                same(true, new String(row.getBytes("payload"), StandardCharsets.UTF_8).startsWith("{\"ts\":\"2026"));
                String trace = HexFormat.of().formatHex("a, \"b\" (c)".getBytes(StandardCharsets.UTF_8));
                same("{\"(trace,\\\"\\\\\\\\x" + trace + "\\\")\",\"(empty,)\"}", row.getString("headers"));
                same(true, row.getObject("timestamp", OffsetDateTime.class).isAfter(NOON.minusYears(1)));
            }
            String literals = "SELECT timestamp '2026-03-01 12:00:00.5' AS naive, ARRAY['a b', NULL, '', 'x\"y'] AS texts,"
                    + " ARRAY[1.5, 2.25]::decimal(10,2)[] AS decimals, ARRAY[1, 2]::bigint[] AS longs,"
                    + " ARRAY[true, false] AS truths, arrow_cast(-5, 'Int8') AS small, map(['a'], [1]) AS map";
            try (ResultSet row = statement.executeQuery(literals)) {
                row.next();
                same(LocalDateTime.parse("2026-03-01T12:00:00.5"), row.getObject("naive", LocalDateTime.class));
                same(Types.TIMESTAMP, row.getMetaData().getColumnType(1));
                same(Arrays.asList("a b", null, "", "x\"y"), Arrays.asList((Object[]) row.getArray("texts").getArray()));
                Object[] decimals = {new BigDecimal("1.50"), new BigDecimal("2.25")};
                same(Arrays.asList(decimals), Arrays.asList((Object[]) row.getArray("decimals").getArray()));
                same(List.of(1L, 2L), Arrays.asList((Object[]) row.getArray("longs").getArray()));
                same(List.of(true, false), Arrays.asList((Object[]) row.getArray("truths").getArray()));
                same(-5, row.getInt("small"));
                same("{a: 1}", row.getString("map"));
            }
        }
    }

    private static final Pattern PLACE = Pattern.compile("\\?(schema|table|database|name)\\b");
    private static final Pattern HAS = Pattern.compile("has: ([^\\n]+)");
    private static final Pattern ROWS = Pattern.compile("rows: (\\d+)");

    /** What tools ask, each in its own words: resources/alluvium/tools.sql. */
    private void tools() throws Exception {
        String file;
        try (InputStream stream = Postgres.class.getResourceAsStream("tools.sql")) {
            file = new String(stream.readAllBytes(), StandardCharsets.UTF_8);
        }
        List<String> wrong = new ArrayList<>();
        try (Connection connection = connect()) {
            Map<String, Object> values = Map.of(
                    "schema", number(connection, "SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public'"),
                    "table",
                            number(
                                    connection,
                                    "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
                                            + " ON n.oid = c.relnamespace WHERE nspname = 'public' AND relname = 'every_type'"),
                    "database", "alluvium",
                    "name", "every_type");
            int asked = 0;
            for (String block : file.split("\n\n")) {
                String comments = lines(block, true);
                String query = lines(block, false);
                if (query.isBlank()) {
                    continue;
                }
                asked += 1;
                try {
                    check(connection, comments, query, values);
                } catch (SQLException | AssertionError problem) {
                    wrong.add(comments + ": " + problem.getMessage());
                }
            }
            same(true, asked >= 80);
        }
        same(List.of(), wrong);
    }

    private static void check(Connection connection, String comments, String query, Map<String, Object> values)
            throws SQLException {
        List<String> found = new ArrayList<>();
        int rows = 0;
        try (PreparedStatement statement = connection.prepareStatement(PLACE.matcher(query).replaceAll("?"))) {
            int place = 0;
            for (Matcher marks = PLACE.matcher(query); marks.find(); ) {
                statement.setObject(++place, values.get(marks.group(1)));
            }
            if (statement.execute()) {
                ResultSet row = statement.getResultSet();
                int columns = row.getMetaData().getColumnCount();
                for (; row.next(); rows++) {
                    for (int column = 1; column <= columns; column++) {
                        row.getObject(column);
                        found.add(String.valueOf(row.getString(column)));
                    }
                }
            }
        }
        Matcher expected = ROWS.matcher(comments);
        if (expected.find()) {
            same(Integer.valueOf(expected.group(1)), rows);
        }
        Matcher words = HAS.matcher(comments);
        if (words.find()) {
            for (String word : words.group(1).split(", ")) {
                if (found.stream().noneMatch(value -> value.contains(word))) {
                    throw new AssertionError("no " + word + " in " + found);
                }
            }
        }
    }

    private static String lines(String block, boolean comments) {
        return block.lines().filter(line -> line.startsWith("--") == comments).collect(Collectors.joining("\n"));
    }

    private static long number(Connection connection, String query) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery(query)) {
            row.next();
            return row.getLong(1);
        }
    }

    private void parameters(boolean simple) throws SQLException {
        try (Connection connection = connect()) {
            String query = "SELECT count(*) FROM every_type WHERE name = ? AND number = ? AND big = ? AND truth = ?"
                    + " AND price = ? AND day = ? AND window_start = ?";
            try (PreparedStatement statement = connection.prepareStatement(query)) {
                for (int turn = 0; turn < 8; turn++) {
                    statement.setString(1, turn % 2 == 0 ? "ann" : "nobody");
                    statement.setInt(2, 7);
                    statement.setLong(3, 9_007_199_254_740_993L);
                    statement.setBoolean(4, true);
                    statement.setBigDecimal(5, new BigDecimal("12.5"));
                    statement.setDate(6, Date.valueOf("2026-02-28"));
                    statement.setObject(7, NOON);
                    try (ResultSet row = statement.executeQuery()) {
                        row.next();
                        same(turn % 2 == 0 ? 1L : 0L, row.getLong(1));
                    }
                }
            }
            if (simple) {
                return;
            }
            try (PreparedStatement statement = connection.prepareStatement("SELECT ?::int + ?::bigint, ?::text")) {
                same(3, statement.getParameterMetaData().getParameterCount());
                same(Types.BIGINT, statement.getMetaData().getColumnType(1));
                statement.setInt(1, 1);
                statement.setLong(2, 2);
                statement.setNull(3, Types.VARCHAR);
                try (ResultSet row = statement.executeQuery()) {
                    row.next();
                    same(3L, row.getLong(1));
                    same(null, row.getString(2));
                }
            }
        }
    }

    private void refusals() throws SQLException {
        refused("SELECT * FROM every_typ", "42P01", "did you mean every_type?");
        refused("SELECT eventz FROM every_type", "42703", "did you mean events?");
        refused("SELEC 1", "42601", "");
        refused("DELETE FROM every_type", "25006", "");
    }

    private void refused(String query, String state, String word) throws SQLException {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            statement.executeQuery(query);
        } catch (SQLException error) {
            same(state, error.getSQLState());
            same(true, error.getMessage().contains(word));
            return;
        }
        throw new AssertionError(query + " was answered");
    }

    private void metadata() throws SQLException {
        try (Connection connection = connect()) {
            DatabaseMetaData metadata = connection.getMetaData();
            same("PostgreSQL", metadata.getDatabaseProductName());
            same(true, names(metadata.getSchemas(), "TABLE_SCHEM").containsAll(List.of("public", "panes", "system")));
            List<String> tables = names(metadata.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME");
            same(true, tables.contains("every_type"));
            TreeMap<String, String> types = new TreeMap<>();
            try (ResultSet columns = metadata.getColumns(null, "public", "every_type", "%")) {
                while (columns.next()) {
                    types.put(columns.getString("COLUMN_NAME"), columns.getString("TYPE_NAME"));
                }
            }
            same("text", types.get("name"));
            same("int8", types.get("events"));
            same("timestamptz", types.get("window_start"));
            same("numeric", types.get("price"));
            same("bool", types.get("truth"));
            same(List.of(), names(metadata.getPrimaryKeys(null, "public", "every_type"), "COLUMN_NAME"));
            same(List.of(), names(metadata.getImportedKeys(null, "public", "every_type"), "PKCOLUMN_NAME"));
            same(List.of(), names(metadata.getIndexInfo(null, "public", "every_type", false, true), "INDEX_NAME"));
            same(true, names(metadata.getTypeInfo(), "TYPE_NAME").contains("int8"));
            same(true, names(metadata.getTableTypes(), "TABLE_TYPE").contains("TABLE"));
            same(true, names(metadata.getCatalogs(), "TABLE_CAT").contains("alluvium"));
        }
    }

    private static List<String> names(ResultSet rows, String column) throws SQLException {
        List<String> names = new ArrayList<>();
        try (rows) {
            while (rows.next()) {
                names.add(rows.getString(column));
            }
        }
        return names;
    }

    private void cursors() throws SQLException {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(100);
                try (ResultSet rows = statement.executeQuery("SELECT value FROM generate_series(1, 2500)")) {
                    long expected = 0;
                    while (rows.next()) {
                        expected += 1;
                        same(expected, rows.getLong(1));
                    }
                    same(2500L, expected);
                }
            }
            connection.commit();
        }
    }

    private void cancels() throws Exception {
        String endless = "SELECT sum(a.value * b.value % 7) FROM generate_series(1, 3000000) AS a(value)"
                + " CROSS JOIN generate_series(1, 3000000) AS b(value)";
        var later = Executors.newSingleThreadScheduledExecutor();
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            later.schedule(() -> {
                statement.cancel();
                return null;
            }, 500, TimeUnit.MILLISECONDS);
            long begin = System.nanoTime();
            try {
                statement.executeQuery(endless);
                throw new AssertionError("answered");
            } catch (SQLException error) {
                same("57014", error.getSQLState());
            }
            same(true, System.nanoTime() - begin < 1_500_000_000L);
        } finally {
            later.shutdown();
        }
    }

    private static void same(Object expected, Object found) {
        if (expected == null ? found != null : !expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }
}
