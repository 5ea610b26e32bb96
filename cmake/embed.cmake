# cmake -DFROM=FILE -DTO=FILE.c -DNAME=symbol -P embed.cmake: a file's bytes as a C array, for what the program carries along.
file(READ ${FROM} bytes HEX)
string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${TO} "#include <stddef.h>\nextern const unsigned char ${NAME}[];\nextern const size_t ${NAME}_len;\n"
                 "const unsigned char ${NAME}[] = {\n${bytes}0 };\nconst size_t ${NAME}_len = sizeof ${NAME} - 1;\n")
