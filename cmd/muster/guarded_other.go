//go:build !linux

package main

// guarded is for Linux.
func guarded() {}
