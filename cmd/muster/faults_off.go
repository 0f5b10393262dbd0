//go:build !faults

package main

// crashFunc and faultEnv do nothing but in a build for fault tests (faults_on.go).
func crashFunc() func(point string) { return nil }

func faultEnv() []string { return nil }
