// Package backendtest is what a CA plugin is tested with: Run, the conformance suite that every backend passes,
// in process and as a plugin process; Memory, a small CA; and Faulty, which makes a backend fail on command.
//
// It is imported by tests only. It knows nothing of the gateway.
package backendtest
