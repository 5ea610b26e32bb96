--- 10. A script file that starts with ESC "LJ": the test writes it.
-- special: bytecode
return {
}
