package gateway_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// Workers, waits and deliveries leave no goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main{M: m}) }
