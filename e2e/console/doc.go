// Package console drives the console of the real gateway with a real browser: `make console`.
package console
