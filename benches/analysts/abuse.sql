-- Twenty queries that a server must survive beside ingestion. Each paragraph is one: what it tries, then the statement.
-- {20*text} stands for that text twenty times. They run one after another; each is given some seconds.

-- every pane with every pane: 10^15 pairs
SELECT count(*) FROM requests AS a CROSS JOIN requests AS b WHERE a.bytes + b.bytes = 7;

-- a million times a million, without a table
SELECT sum(a.value * b.value) FROM generate_series(1, 1000000) AS a(value), generate_series(1, 1000000) AS b(value);

-- a self join of panes by window alone: a million pairs for each minute
SELECT a.window_start, count(*) FROM panes.requests AS a JOIN panes.requests AS b ON a.window_start = b.window_start GROUP BY 1;

-- a join on a condition that no hash can help
SELECT count(*) FROM requests AS a JOIN requests AS b ON a.bytes < b.bytes AND a.requests > b.requests;

-- all rows, sorted by what they are not sorted by
SELECT * FROM requests ORDER BY p99_ms DESC, key, bytes;

-- everything, without a limit, read slowly
SELECT * FROM requests;

-- all states as they are stored, without a limit, read slowly
SELECT * FROM panes.requests;

-- two thousand terms
SELECT requests{1999* + 1} AS n FROM requests LIMIT 1;

-- ten thousand times OR
SELECT count(*) FROM requests WHERE key = 'a'{9999* OR bytes=1};

-- brackets five thousand deep
SELECT {5000*(}1{5000*)};

-- sixty calls inside each other
SELECT {60*abs(}bytes{60*)} AS n FROM requests LIMIT 1;

-- subqueries inside each other, forty deep
{40*SELECT * FROM (}SELECT 1 AS n{40*) AS q};

-- a billion numbers, all of them kept
SELECT array_agg(value) FROM generate_series(1, 1000000000) AS numbers(value);

-- a list of a billion numbers in one row
SELECT cardinality(generate_series(1, 1000000000)) AS n;

-- a text of four gigabytes
SELECT length(repeat('Alluvium', 500000000)) AS n;

-- a text that doubles thirty times
WITH RECURSIVE doubled(n, t) AS (SELECT 1, 'x' UNION ALL SELECT n + 1, t || t FROM doubled WHERE n < 34) SELECT max(length(t)) AS n FROM doubled;

-- a recursion that never ends
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT count(*) FROM numbers;

-- a pattern that goes back over and over, on every row
SELECT count(*) FROM requests WHERE regexp_like(repeat(key, 200), '^(([a-z0-9])+.)+[A-Z]([a-z0-9])+$');

-- every key's values as lists of different values
SELECT key, array_agg(DISTINCT bytes) AS bytes, array_agg(DISTINCT mean_ms) AS ms, array_agg(window_start ORDER BY bytes) AS minutes FROM requests GROUP BY key;

-- a group for every row, and a window over all of them
SELECT count(*), max(place) FROM (SELECT window_start, key, row_number() OVER (ORDER BY md5(key || CAST(bytes AS VARCHAR) || CAST(window_start AS VARCHAR))) AS place, sum(bytes) OVER (PARTITION BY bytes) AS b FROM requests);
