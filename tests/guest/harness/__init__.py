"""Runs the test scripts of nix/tests on Debian guests. See README.md beside `run`."""
