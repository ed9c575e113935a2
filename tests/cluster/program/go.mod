module bearerd/tests/cluster

go 1.25
