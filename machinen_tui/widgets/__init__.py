"""One widget a file, named for what one sees."""
