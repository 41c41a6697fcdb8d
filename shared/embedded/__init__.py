"""The embedded yard: the production stores and our own processes, children of one parent."""
