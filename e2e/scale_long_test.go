//go:build reliability

package e2e

// long: the numbers of `make reliability`, and what takes random kills or disks of its own.
const long = true
