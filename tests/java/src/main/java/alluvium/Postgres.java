package alluvium;

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

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
            client.parameters(mode.endsWith("simple"));
            client.refusals();
            System.out.println(mode + ": right");
        }
        Postgres client = new Postgres(url);
        client.metadata();
        client.cursors();
        client.cancels();
        System.out.println("metadata, cursors, cancel: right");
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
        refused("SELECT * FROM every_typ", "42P01", "every_type");
        refused("SELECT eventz FROM every_type", "42703", "events");
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
