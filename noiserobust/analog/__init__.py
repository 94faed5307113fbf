"""Networks whose weights lie in analog arrays: which weights do, how noise gets into them, converters, backends."""
