"""What a campaign does to servers, links, storage and the topic. Each action counts itself, and only when it took effect."""
