package gateway

const (
	WorkPerCA = workPerCA
	WorkEvery = workEvery
)
