"""Readers of facts. Each takes a root folder, in which /proc, /sys, /dev, /etc and /run are, so that tests can make
one.

They only read: the two that ask by trying (memfd and pidfd, files without a name) leave nothing behind.
"""
