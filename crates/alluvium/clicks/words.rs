//! The words that clicks are made of. No word holds a comma, a quote, a backslash or a brace.

/// ISO 3166 codes, the most frequent first.
pub(super) const COUNTRIES: [&str; 200] = [
    "US", "IN", "BR", "DE", "GB", "JP", "FR", "ID", "MX", "CH", "IT", "ES", "CA", "KR", "NL", "PL",
    "TR", "AU", "AR", "SE", "AT", "BE", "CO", "PH", "VN", "TH", "NG", "EG", "ZA", "PK", "BD", "UA",
    "RO", "CZ", "PT", "HU", "GR", "DK", "FI", "NO", "IE", "IL", "SG", "MY", "NZ", "CL", "PE", "VE",
    "EC", "MA", "DZ", "TN", "KE", "GH", "ET", "TZ", "UG", "SA", "AE", "QA", "KW", "BH", "OM", "JO",
    "LB", "IQ", "IR", "KZ", "UZ", "GE", "AM", "AZ", "BY", "LT", "LV", "EE", "SK", "SI", "HR", "RS",
    "BA", "MK", "AL", "ME", "BG", "MD", "CY", "MT", "LU", "IS", "HK", "TW", "CN", "RU", "LK", "NP",
    "MM", "KH", "LA", "MN", "AF", "BT", "MV", "BN", "TL", "PG", "FJ", "WS", "TO", "VU", "SB", "KI",
    "NR", "TV", "PW", "FM", "MH", "CU", "DO", "HT", "JM", "TT", "BB", "BS", "BZ", "GT", "HN", "SV",
    "NI", "CR", "PA", "BO", "PY", "UY", "GY", "SR", "AG", "DM", "GD", "KN", "LC", "VC", "PR", "GP",
    "MQ", "GF", "RE", "YT", "SN", "CI", "CM", "ML", "BF", "NE", "TD", "GN", "GW", "SL", "LR", "TG",
    "BJ", "GM", "MR", "CV", "ST", "GA", "CG", "CD", "CF", "GQ", "AO", "ZM", "ZW", "MW", "MZ", "BW",
    "NA", "SZ", "LS", "MG", "MU", "SC", "KM", "DJ", "ER", "SO", "SS", "SD", "LY", "YE", "SY", "PS",
    "KG", "TJ", "TM", "AD", "MC", "SM", "LI", "GI",
];

pub(super) const SECTIONS: [&str; 8] = [
    "shoes", "books", "garden", "music", "kitchen", "toys", "travel", "sale",
];

pub(super) const CAMPAIGNS: [&str; 6] = [
    "none",
    "spring",
    "newsletter-14",
    "retarget",
    "partner",
    "brand",
];

/// What the server answered; as often as it stands here.
pub(super) const STATUSES: [u16; 40] = [
    200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200,
    200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 304, 304, 301, 302, 404, 404, 403,
    500, 503,
];

pub(super) const REFERRERS: [&str; 6] = [
    "",
    "https://search.example/?q=gift",
    "https://news.example/today",
    "https://social.example/feed",
    "https://shop.example/",
    "https://mail.example/inbox",
];

pub(super) const USER_AGENTS: [&str; 5] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/141.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0) Safari/605.1 Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 16) Chrome/141.0 Mobile Safari/537.36",
    "shop-app/7.3 (iPad; OS 19.1)",
];
