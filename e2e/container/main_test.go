//go:build container

// Package container builds the Dockerfile by buildah, without an engine or a registry, and runs the image's root file system as its
// configuration says, in namespaces of its own: `make container` gets what that needs and runs this. One that is missing is a failure.
package container

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// storage is what .ci/container made: buildah's storage, and the image that the Dockerfile builds in.
var storage string

func TestMain(m *testing.M) {
	if os.Getenv(specVariable) != "" {
		fmt.Fprintln(os.Stderr, become()) // it returns only to say why not
		os.Exit(125)
	}
	code, err := prepared(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func prepared(m *testing.M) (int, error) {
	if storage = os.Getenv("MUSTER_CONTAINER"); storage == "" {
		return 1, errors.New("MUSTER_CONTAINER does not say where .ci/container put what it made: run `make container`")
	}
	if os.Geteuid() != 0 {
		return 1, errors.New("containers are run in namespaces here, without an engine: run this as root")
	}
	defer func() {
		for _, dir := range roots.all {
			os.RemoveAll(dir) //nolint:errcheck // a scratch copy
		}
	}()
	return m.Run(), nil
}
