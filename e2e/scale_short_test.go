//go:build !reliability

package e2e

// long: `make test` has the same tests with small numbers.
const long = false
