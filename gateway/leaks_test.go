package gateway_test

import (
	"testing"

	"go.uber.org/goleak"
)

// Workers, waits and deliveries leave no goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
