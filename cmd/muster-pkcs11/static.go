//go:build !cgo

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "muster-pkcs11 was built without cgo, and loads no PKCS #11 module: make pkcs11")
	os.Exit(1)
}
