//go:build !faults

package main

import "time"

// crashFunc, rsaKey, faultEnv, lookUps and issueTimeout do nothing but in a build for fault tests (faults_on.go).
func crashFunc() func(point string) { return nil }

func rsaKey() string { return "" }

func faultEnv() []string { return nil }

func lookUps(s stageStore) stageStore { return s }

func issueTimeout() time.Duration { return 0 }
