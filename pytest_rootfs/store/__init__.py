"""Keep images: content-addressed blobs, unpacked layers, tags and the results of build steps."""
