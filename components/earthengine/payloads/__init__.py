"""The codecs, one module a payload format."""
